# bench/real/work.py: a loop, objects, dictionaries, JSON.
import json


class Counter:
    def __init__(self):
        self.seen = {}

    def add(self, key):
        self.seen[key] = self.seen.get(key, 0) + 1


def collatz(limit):
    best = (0, 0)
    for start in range(1, limit):
        n, steps = start, 0
        while n != 1:
            n = 3 * n + 1 if n & 1 else n >> 1
            steps += 1
        best = max(best, (steps, start))
    return best


def words(count):
    counter, x = Counter(), 1
    for _ in range(count):
        x = x * 16807 % 2147483647
        counter.add("w%d" % (x % 5000))
    return counter.seen


def records(count):
    return [{"id": i, "name": "name %d" % i, "tags": ["a", "b", str(i % 7)], "value": i / 8} for i in range(count)]


print(collatz(24000))
seen = words(220000)
print(len(seen), sorted(seen.items(), key=lambda item: (-item[1], item[0]))[:3])
text = json.dumps(records(8000), indent=1)
again = json.loads(text)
print(len(text), sum(r["value"] for r in again), again[-1])
