-- bench/real/work.sql: a table filled, indexed, joined and changed in memory.
CREATE TABLE item (id INTEGER PRIMARY KEY, grp INTEGER, name TEXT, price REAL);
BEGIN;
WITH RECURSIVE n(i, x) AS (SELECT 1, 1 UNION ALL SELECT i + 1, x * 16807 % 2147483647 FROM n WHERE i < 110000)
INSERT INTO item SELECT i, x % 500, 'item ' || (x % 10007), (x % 9999) / 4.0 FROM n;
COMMIT;
CREATE INDEX item_name ON item (name);
CREATE TABLE grp (id INTEGER PRIMARY KEY, label TEXT);
INSERT INTO grp SELECT DISTINCT grp, 'group ' || grp FROM item;
SELECT count(*), sum(price), min(name), max(name) FROM item;
SELECT label, count(*), sum(price) FROM item JOIN grp ON grp.id = item.grp GROUP BY label ORDER BY 3 DESC LIMIT 5;
SELECT count(*) FROM item a JOIN item b ON a.name = b.name AND a.id < b.id;
UPDATE item SET price = price + 1 WHERE name LIKE 'item 1%';
DELETE FROM item WHERE id % 7 = 0;
SELECT count(*), sum(price) FROM item;
SELECT name, count(*) FROM item GROUP BY name HAVING count(*) > 12 ORDER BY 2 DESC, 1 LIMIT 5;
