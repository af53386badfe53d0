-- What fuses have counted: parts of their windows, each with the time at which it began. source: its address on this host.
CREATE TABLE fuses (
    stream TEXT NOT NULL,
    source TEXT NOT NULL,
    began INTEGER NOT NULL,
    attempts INTEGER NOT NULL CHECK (attempts >= 0),
    bounces INTEGER NOT NULL CHECK (bounces >= 0),
    blocks INTEGER NOT NULL CHECK (blocks >= 0),
    complaints INTEGER NOT NULL CHECK (complaints >= 0),
    PRIMARY KEY (stream, source, began)
) STRICT, WITHOUT ROWID;
