-- The ledger, version 1.
--
-- A usage row's key is `start << 24 | machine`: ordered by time first, so that a minute's
-- rows of ten thousand machines lie side by side at the end of the tree and a commit writes
-- few pages; one integer, because a rowid costs fewer bytes than two columns of an index.
-- `start` counts minutes since 1970 in `minute` and seconds in the others. Byte columns are
-- unsigned, kept bit for bit. The views at the end are for people with an SQL shell.

CREATE TABLE machine (
    id   INTEGER PRIMARY KEY CHECK (id BETWEEN 1 AND 16777215),
    name TEXT NOT NULL UNIQUE
) STRICT;

-- In which zone a machine's hours, days and months are, since which second (a whole
-- minute). The first one also holds for what is before it.
CREATE TABLE zone (
    machine INTEGER NOT NULL,
    since   INTEGER NOT NULL,
    name    TEXT NOT NULL,
    PRIMARY KEY (machine, since)
) STRICT, WITHOUT ROWID;

-- Minutes, hours, days and months that are over. The last one of each machine stands in
-- `open` until traffic of a later one comes: a minute's commit changes one row instead of
-- three, and appends each minute once, whole, wherever in it the polls fall.
CREATE TABLE minute (
    key      INTEGER PRIMARY KEY,
    received INTEGER NOT NULL,
    sent     INTEGER NOT NULL,
    exempt   INTEGER NOT NULL
) STRICT;

CREATE TABLE hour (
    key      INTEGER PRIMARY KEY,
    received INTEGER NOT NULL,
    sent     INTEGER NOT NULL,
    exempt   INTEGER NOT NULL
) STRICT;

CREATE TABLE day (
    key      INTEGER PRIMARY KEY,
    received INTEGER NOT NULL,
    sent     INTEGER NOT NULL,
    exempt   INTEGER NOT NULL
) STRICT;

CREATE TABLE month (
    key      INTEGER PRIMARY KEY,
    received INTEGER NOT NULL,
    sent     INTEGER NOT NULL,
    exempt   INTEGER NOT NULL
) STRICT;

CREATE TABLE open (
    machine         INTEGER PRIMARY KEY,
    minute          INTEGER NOT NULL,
    minute_received INTEGER NOT NULL,
    minute_sent     INTEGER NOT NULL,
    minute_exempt   INTEGER NOT NULL,
    hour            INTEGER NOT NULL,
    hour_received   INTEGER NOT NULL,
    hour_sent       INTEGER NOT NULL,
    hour_exempt     INTEGER NOT NULL,
    day             INTEGER NOT NULL,
    day_received    INTEGER NOT NULL,
    day_sent        INTEGER NOT NULL,
    day_exempt      INTEGER NOT NULL,
    month           INTEGER NOT NULL,
    month_received  INTEGER NOT NULL,
    month_sent      INTEGER NOT NULL,
    month_exempt    INTEGER NOT NULL
) STRICT;

-- The sums of the period that runs; those that closed. Times in nanoseconds since 1970.
CREATE TABLE running (
    machine      INTEGER PRIMARY KEY,
    period_start INTEGER NOT NULL,
    period_end   INTEGER NOT NULL,
    measured_to  INTEGER NOT NULL,
    received     INTEGER NOT NULL,
    sent         INTEGER NOT NULL,
    exempt       INTEGER NOT NULL
) STRICT;

CREATE TABLE period (
    machine      INTEGER NOT NULL,
    period_start INTEGER NOT NULL,
    period_end   INTEGER NOT NULL,
    received     INTEGER NOT NULL,
    sent         INTEGER NOT NULL,
    exempt       INTEGER NOT NULL,
    PRIMARY KEY (machine, period_start)
) STRICT, WITHOUT ROWID;

-- What the engine keeps: JSON that only it reads, written when it changed.
CREATE TABLE machine_state (
    machine INTEGER PRIMARY KEY,
    state   TEXT NOT NULL
) STRICT;

CREATE TABLE account_state (
    account TEXT PRIMARY KEY,
    state   TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- A slot and its owner, which seldom change, apart from the cursor, which always does.
CREATE TABLE boot (
    id      INTEGER PRIMARY KEY,
    boot_id TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE slot (
    id                    INTEGER PRIMARY KEY,
    boot                  INTEGER NOT NULL,
    map_set               INTEGER NOT NULL,
    slot                  INTEGER NOT NULL,
    generation            INTEGER NOT NULL,
    machine               INTEGER NOT NULL,
    netns                 INTEGER NOT NULL,
    ifindex               INTEGER NOT NULL,
    name                  TEXT NOT NULL,
    base_received         INTEGER NOT NULL,
    base_sent             INTEGER NOT NULL,
    base_exempt           INTEGER NOT NULL,
    base_packets_received INTEGER NOT NULL,
    base_packets_sent     INTEGER NOT NULL,
    base_frames_received  INTEGER NOT NULL,
    base_frames_sent      INTEGER NOT NULL,
    base_shaped_received  INTEGER NOT NULL,
    base_shaped_sent      INTEGER NOT NULL,
    credit_received       INTEGER,
    credit_sent           INTEGER,
    credit_exempt         INTEGER,
    credits               INTEGER NOT NULL,
    UNIQUE (map_set, slot, generation, boot)
) STRICT;

CREATE TABLE cursor (
    slot             INTEGER PRIMARY KEY,
    received         INTEGER NOT NULL,
    sent             INTEGER NOT NULL,
    exempt           INTEGER NOT NULL,
    packets_received INTEGER NOT NULL,
    packets_sent     INTEGER NOT NULL,
    frames_received  INTEGER NOT NULL,
    frames_sent      INTEGER NOT NULL,
    shaped_received  INTEGER NOT NULL,
    shaped_sent      INTEGER NOT NULL,
    -- What had come through the shapers, while some stood: named by their IFB.
    ifb              INTEGER,
    through_received INTEGER,
    through_sent     INTEGER
) STRICT;

-- The newest generation of every slot, freed or not: what stands here is not handed out again.
CREATE TABLE generation (
    map_set    INTEGER NOT NULL,
    slot       INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    boot       INTEGER NOT NULL,
    PRIMARY KEY (map_set, slot)
) STRICT, WITHOUT ROWID;

CREATE TABLE highest_ifindex (
    boot    INTEGER NOT NULL,
    netns   INTEGER NOT NULL,
    ifindex INTEGER NOT NULL,
    PRIMARY KEY (boot, netns)
) STRICT, WITHOUT ROWID;

-- Append only.
CREATE TABLE event (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    time     INTEGER NOT NULL,
    machine  TEXT,
    account  TEXT,
    name     TEXT NOT NULL,
    body     TEXT NOT NULL
) STRICT;
CREATE INDEX event_by_machine ON event (machine, sequence) WHERE machine IS NOT NULL;
CREATE INDEX event_by_time ON event (time);

-- Notices, queued by the transaction that decided them. One that was settled keeps its row,
-- so that its id is never queued again.
CREATE TABLE outbox (
    id      TEXT PRIMARY KEY,
    event   INTEGER NOT NULL,
    settled INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX outbox_pending ON outbox (event) WHERE settled IS NULL;

CREATE TABLE command (
    key     TEXT PRIMARY KEY,
    request TEXT NOT NULL,
    status  INTEGER NOT NULL,
    answer  TEXT NOT NULL,
    time    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE host_note (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- One row. `minutes_from` and its like: from there on everything is still kept.
CREATE TABLE ledger (
    only         INTEGER PRIMARY KEY CHECK (only = 1),
    recorded     INTEGER,
    node_state   TEXT,
    minutes_from INTEGER,
    hours_from   INTEGER,
    days_from    INTEGER
) STRICT;
INSERT INTO ledger (only) VALUES (1);

CREATE VIEW minutes AS
    SELECT datetime(start, 'unixepoch') AS start, machine.name AS machine, received, sent, exempt
    FROM (SELECT (key >> 24) * 60 AS start, key & 0xffffff AS id, received, sent, exempt FROM minute
          UNION ALL SELECT minute, machine, minute_received, minute_sent, minute_exempt FROM open)
    JOIN machine USING (id);
CREATE VIEW hours AS
    SELECT datetime(start, 'unixepoch') AS start, machine.name AS machine, received, sent, exempt
    FROM (SELECT key >> 24 AS start, key & 0xffffff AS id, received, sent, exempt FROM hour
          UNION ALL SELECT hour, machine, hour_received, hour_sent, hour_exempt FROM open)
    JOIN machine USING (id);
CREATE VIEW days AS
    SELECT datetime(start, 'unixepoch') AS start, machine.name AS machine, received, sent, exempt
    FROM (SELECT key >> 24 AS start, key & 0xffffff AS id, received, sent, exempt FROM day
          UNION ALL SELECT day, machine, day_received, day_sent, day_exempt FROM open)
    JOIN machine USING (id);
CREATE VIEW months AS
    SELECT datetime(start, 'unixepoch') AS start, machine.name AS machine, received, sent, exempt
    FROM (SELECT key >> 24 AS start, key & 0xffffff AS id, received, sent, exempt FROM month
          UNION ALL SELECT month, machine, month_received, month_sent, month_exempt FROM open)
    JOIN machine USING (id);
