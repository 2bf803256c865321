-- bench/real/work.lua: calls, tables, strings.
local function fib(n)
    if n < 2 then return n end
    return fib(n - 1) + fib(n - 2)
end

local function queens(n)
    local count, columns, up, down = 0, {}, {}, {}
    local function place(row)
        if row > n then
            count = count + 1
            return
        end
        for c = 1, n do
            if not (columns[c] or up[row + c] or down[row - c]) then
                columns[c], up[row + c], down[row - c] = true, true, true
                place(row + 1)
                columns[c], up[row + c], down[row - c] = nil, nil, nil
            end
        end
    end
    place(1)
    return count
end

local function sorted(n)
    local list, x = {}, 1
    for i = 1, n do
        x = x * 16807 % 2147483647
        list[i] = string.format("%08x", x)
    end
    table.sort(list)
    return list[1], list[n], #table.concat(list, " ")
end

print(fib(30), queens(8))
print(sorted(130000))
