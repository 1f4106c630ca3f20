-- Version 2: what a machine was ever credited with can be added up again.
--
-- months = what the slots counted + `settled` + `seed`, to the byte, for each machine.

-- What slots had counted that are free by now, or whose counters fell and were begun anew.
CREATE TABLE settled (
    machine  INTEGER PRIMARY KEY,
    received INTEGER NOT NULL,
    sent     INTEGER NOT NULL,
    exempt   INTEGER NOT NULL
) STRICT;

-- Usage that was brought in from elsewhere. `digest` is of its rows: the same are not
-- brought in twice. `first` and `last` in nanoseconds since 1970.
CREATE TABLE seed (
    id       INTEGER PRIMARY KEY,
    machine  INTEGER NOT NULL,
    digest   TEXT NOT NULL,
    time     INTEGER NOT NULL,
    author   TEXT NOT NULL,
    source   TEXT NOT NULL,
    first    INTEGER NOT NULL,
    last     INTEGER NOT NULL,
    received INTEGER NOT NULL,
    sent     INTEGER NOT NULL,
    exempt   INTEGER NOT NULL,
    UNIQUE (machine, digest)
) STRICT;

-- Where the statements of a machine ended that was forgotten: should another of its name
-- come, they go on from there.
CREATE TABLE chain (
    machine  TEXT PRIMARY KEY,
    sequence INTEGER NOT NULL,
    hash     TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Names this ledger in statements; a restored backup keeps it.
ALTER TABLE ledger ADD COLUMN id TEXT NOT NULL DEFAULT '';
UPDATE ledger SET id = lower(hex(randomblob(16)));
