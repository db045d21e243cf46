-- For wrk: requests of 10 documents of 100 words, no document twice.
local words = {}
for i = 1, 99 do words[i] = "word" .. i end
local rest = table.concat(words, " ")
local number = 0

request = function()
  number = number + 1
  local documents = {}
  for i = 1, 10 do documents[i] = '"' .. number .. "-" .. i .. " " .. rest .. '"' end
  local body = '{"query":"what is word1","return_documents":false,"documents":[' .. table.concat(documents, ",") .. "]}"
  return wrk.format("POST", "/rerank", {["Content-Type"] = "application/json"}, body)
end
