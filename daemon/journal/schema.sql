-- node.db: what a node did and cannot learn again from its disks.
--
-- Each section brings the schema from the version before to its own; the version of a file is
-- PRAGMA user_version. A section that was once released is not changed, another is added.
-- Times are milliseconds since 1970 in UTC, 0 for none.

-- version 1

CREATE TABLE meta (
	id     TEXT    NOT NULL,    -- of this journal, kept by its copies
	opened INTEGER NOT NULL     -- how often it was opened for use; tells which of two copies is later
);

CREATE TABLE poll (
	key       TEXT    NOT NULL, -- poll key
	role      TEXT    NOT NULL, -- poller or voter
	au        TEXT    NOT NULL,
	peer      TEXT    NOT NULL, -- the poller
	started   INTEGER NOT NULL,
	ended     INTEGER NOT NULL, -- 0: running
	status    TEXT    NOT NULL,
	quorum    INTEGER NOT NULL,
	voters    INTEGER NOT NULL,
	agreement REAL    NOT NULL, -- 0 to 1, -1 for none
	urls      INTEGER NOT NULL,
	won       INTEGER NOT NULL,
	lost      INTEGER NOT NULL,
	too_close INTEGER NOT NULL,
	no_quorum INTEGER NOT NULL,
	repairs   INTEGER NOT NULL,
	sentence  TEXT    NOT NULL, -- the result in words
	detail    BLOB,             -- JSON
	PRIMARY KEY (key, role)
);
CREATE INDEX poll_started ON poll (started);
CREATE INDEX poll_au ON poll (au, started);
CREATE INDEX poll_running ON poll (started) WHERE ended = 0;

CREATE TABLE crawl (
	id           INTEGER PRIMARY KEY AUTOINCREMENT,
	au           TEXT    NOT NULL,
	kind         TEXT    NOT NULL,
	started      INTEGER NOT NULL,
	ended        INTEGER NOT NULL,
	status       INTEGER NOT NULL,
	message      TEXT    NOT NULL,
	fetched      INTEGER NOT NULL,
	not_modified INTEGER NOT NULL,
	excluded     INTEGER NOT NULL,
	errors       INTEGER NOT NULL,
	bytes        INTEGER NOT NULL,
	failures     BLOB              -- JSON: [{"url": …, "reason": …}]
);
CREATE INDEX crawl_started ON crawl (started);
CREATE INDEX crawl_au ON crawl (au, started);

CREATE TABLE repair (
	id      INTEGER PRIMARY KEY AUTOINCREMENT,
	au      TEXT    NOT NULL,
	url     TEXT    NOT NULL,
	version INTEGER NOT NULL,
	peer    TEXT    NOT NULL,      -- '' for the publisher
	poll    TEXT    NOT NULL,      -- poll key
	at      INTEGER NOT NULL,
	result  TEXT    NOT NULL,      -- verified, disputed or failed
	old     TEXT    NOT NULL,      -- checksums, ALG:HEX
	new     TEXT    NOT NULL
);
CREATE INDEX repair_at ON repair (at);
CREATE INDEX repair_au ON repair (au, at);
CREATE INDEX repair_poll ON repair (poll);

CREATE TABLE action (
	id     INTEGER PRIMARY KEY AUTOINCREMENT,
	at     INTEGER NOT NULL,
	user   TEXT    NOT NULL,
	what   TEXT    NOT NULL,
	object TEXT    NOT NULL,
	result TEXT    NOT NULL
);
CREATE INDEX action_at ON action (at);

CREATE TABLE setting (
	key   TEXT PRIMARY KEY,
	value BLOB NOT NULL
) WITHOUT ROWID;
