-- What is believed of sources at providers, and what the guard rails remember, as JSON: it is read and written as a whole.
CREATE TABLE beliefs (
    only INTEGER NOT NULL PRIMARY KEY CHECK (only = 1),
    beliefs TEXT NOT NULL CHECK (json_valid(beliefs))
) STRICT;
