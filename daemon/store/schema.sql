-- index.db of one disk: what its tree holds. Derived; see the package comment.
-- The version of this schema is PRAGMA user_version, indexVersion in index.go.

CREATE TABLE meta (
	clean INTEGER NOT NULL             -- 1: the last run ended with Close
);
INSERT INTO meta (clean) VALUES (1);

CREATE TABLE unit (
	id       INTEGER PRIMARY KEY,
	au       TEXT    NOT NULL,         -- AU id
	dir      TEXT    NOT NULL UNIQUE,  -- name in cache/
	complete INTEGER NOT NULL DEFAULT 0, -- 1: built from the whole tree
	dirty    INTEGER NOT NULL DEFAULT 0, -- 1: stored into since the last Close
	top      TEXT    NOT NULL DEFAULT '', -- evidence: time of the unit's directory
	sites    TEXT    NOT NULL DEFAULT '', -- evidence: hosts, schemes and their times
	urls     INTEGER NOT NULL DEFAULT 0, -- totals, kept by the triggers below
	bytes    INTEGER NOT NULL DEFAULT 0,
	versions INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE url (
	unit     INTEGER NOT NULL REFERENCES unit (id),
	key      BLOB    NOT NULL,         -- node URL in a form whose byte order is the canonical order
	version  INTEGER NOT NULL,         -- number of the current version
	size     INTEGER NOT NULL,         -- its bytes; -1: missing
	checksum TEXT    NOT NULL,         -- ALG:HEX, or ''
	versions INTEGER NOT NULL,         -- how many, the current one included
	gen      INTEGER NOT NULL,         -- rebuild that last saw it
	PRIMARY KEY (unit, key)
) WITHOUT ROWID;

CREATE TRIGGER url_insert AFTER INSERT ON url BEGIN
	UPDATE unit SET urls = urls + 1, bytes = bytes + max(NEW.size, 0), versions = versions + NEW.versions
	WHERE id = NEW.unit;
END;
CREATE TRIGGER url_update AFTER UPDATE ON url BEGIN
	UPDATE unit SET bytes = bytes - max(OLD.size, 0) + max(NEW.size, 0), versions = versions - OLD.versions + NEW.versions
	WHERE id = NEW.unit;
END;
CREATE TRIGGER url_delete AFTER DELETE ON url BEGIN
	UPDATE unit SET urls = urls - 1, bytes = bytes - max(OLD.size, 0), versions = versions - OLD.versions
	WHERE id = OLD.unit;
END;
