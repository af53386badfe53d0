-- Schema 1. Never edited once released: a later schema is a file of its own. Times are microseconds since 1970 (UTC).

-- Who wrote last, for the one who meets a schema that is newer than the program.
CREATE TABLE meta (
    only INTEGER NOT NULL PRIMARY KEY CHECK (only = 1),
    written_by TEXT NOT NULL
) STRICT;

-- Every source that ever was in a pool. Its public address is its identity.
CREATE TABLE sources (
    public TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    local TEXT NOT NULL,
    first_seen INTEGER NOT NULL,
    last_served INTEGER
) STRICT, WITHOUT ROWID;

-- All that was ever counted. source: public address, or '' where nothing was steered; stream: '' where none matched.
CREATE TABLE counters (
    source TEXT NOT NULL,
    stream TEXT NOT NULL,
    provider TEXT NOT NULL,
    outcome TEXT NOT NULL,
    count INTEGER NOT NULL CHECK (count >= 0),
    PRIMARY KEY (source, stream, provider, outcome)
) STRICT, WITHOUT ROWID;

-- How far the kernel's counters were taken in, so that nothing is taken in twice. origin names the one map or table
-- that was read: another one begins at 0.
CREATE TABLE origins (
    place TEXT NOT NULL PRIMARY KEY,
    origin TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE readings (
    place TEXT NOT NULL,
    lane INTEGER NOT NULL,
    source INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    value INTEGER NOT NULL CHECK (value >= 0),
    PRIMARY KEY (place, lane, source, outcome)
) STRICT, WITHOUT ROWID;

-- When a count that should be 0 was last seen to grow.
CREATE TABLE growth (
    what TEXT NOT NULL PRIMARY KEY,
    count INTEGER NOT NULL,
    last INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    number INTEGER NOT NULL PRIMARY KEY,
    time INTEGER NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    text TEXT NOT NULL,
    fields TEXT NOT NULL CHECK (json_valid(fields))
) STRICT;

-- What was believed of a source at a provider ('': everywhere). ended: NULL while it holds.
CREATE TABLE verdicts (
    number INTEGER NOT NULL PRIMARY KEY,
    source TEXT NOT NULL,
    provider TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('healthy', 'suspect', 'isolated', 'probation', 'suspended')),
    cause TEXT NOT NULL,
    since INTEGER NOT NULL,
    until INTEGER,
    ended INTEGER,
    evidence TEXT NOT NULL CHECK (json_valid(evidence))
) STRICT;

-- Streams that the operator left alone. ended: NULL while it holds.
CREATE TABLE bypasses (
    number INTEGER NOT NULL PRIMARY KEY,
    stream TEXT NOT NULL,
    cause TEXT NOT NULL,
    since INTEGER NOT NULL,
    until INTEGER NOT NULL,
    ended INTEGER
) STRICT;

-- Times at which nothing was to change by itself. serving: the local addresses that shared the traffic, as JSON.
CREATE TABLE holds (
    number INTEGER NOT NULL PRIMARY KEY,
    cause TEXT NOT NULL,
    since INTEGER NOT NULL,
    until INTEGER,
    serving TEXT NOT NULL CHECK (json_valid(serving)),
    ended INTEGER
) STRICT;
