-- How far each log was taken in, and what was counted of it: one transaction, so that no line counts twice or not at all.
CREATE TABLE logs (
    name TEXT NOT NULL PRIMARY KEY,
    bookmark TEXT NOT NULL CHECK (json_valid(bookmark)),
    counts TEXT NOT NULL CHECK (json_valid(counts))
) STRICT, WITHOUT ROWID;

-- Replies to messages that were joined to a source.
CREATE TABLE replies (
    provider TEXT NOT NULL,
    class TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (provider, class)
) STRICT, WITHOUT ROWID;

-- Those that were not, by why.
CREATE TABLE unjoined (
    why TEXT NOT NULL PRIMARY KEY,
    count INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
