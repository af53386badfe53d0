-- What each address did on each day (UTC, as YYYY-MM-DD): for summaries. source: public address.
CREATE TABLE days (
    day TEXT NOT NULL,
    source TEXT NOT NULL,
    attempted INTEGER NOT NULL CHECK (attempted >= 0),
    established INTEGER NOT NULL CHECK (established >= 0),
    accepted INTEGER NOT NULL CHECK (accepted >= 0),
    deferred INTEGER NOT NULL CHECK (deferred >= 0),
    blocked INTEGER NOT NULL CHECK (blocked >= 0),
    bounced INTEGER NOT NULL CHECK (bounced >= 0),
    complaints INTEGER NOT NULL CHECK (complaints >= 0),
    listed INTEGER NOT NULL CHECK (listed >= 0),
    listed_seconds INTEGER NOT NULL CHECK (listed_seconds >= 0),
    flips INTEGER NOT NULL CHECK (flips >= 0),
    PRIMARY KEY (day, source)
) STRICT, WITHOUT ROWID;
