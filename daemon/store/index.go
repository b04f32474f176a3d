package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/mattn/go-sqlite3"

	"armarium/daemon/lockss"
)

// indexVersion is counted up with each change of schema.sql; an index of another version is
// built anew.
const indexVersion = 1

//go:embed schema.sql
var schema string

// An index is the index.db of one disk. Losing it loses nothing: no error of it keeps content
// from being stored.
type index struct {
	path string
	log  *slog.Logger

	mu    sync.RWMutex
	db    *sql.DB // one connection
	clean bool    // the last run ended with Close
	units []*Unit
}

// entry is a unit's part of the index.
type entry struct {
	build sync.Mutex   // held while it is rebuilt
	use   sync.RWMutex // held for reading from the mark until the index has what was stored
	dirty sync.Mutex   // held while the row's mark is changed

	mu      sync.Mutex
	row     int64 // unit.id
	stale   bool  // to be rebuilt before it is believed
	marked  bool  // the row says that the unit is stored into
	touched bool  // evidence has to be taken again at Close
	gen     int64 // of the last rebuild in this run
	// again are nodes stored into while a rebuild is running; nil when none is.
	again map[string][]string
}

// touch notes that the unit's own directory changed.
func (e *entry) touch() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.touched = true
}

func (e *entry) isStale() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.stale
}

// Item is one URL in a listing.
type Item struct {
	URL      string // node URL
	Version  int    // number of the current version
	Size     int64  // its bytes; -1 when the body is missing
	Checksum string // "ALG:HEX", or "" when none is recorded
	Versions int    // how many there are, the current one included
}

// UnitSummary is the content of a unit in figures.
type UnitSummary struct {
	URLs     int   // URLs with a current version
	Bytes    int64 // of current versions
	Versions int   // the current ones included
}

// openIndex opens the index of a disk, or a new one when it is missing, damaged or of another
// version. A damaged one is moved aside to index.db.damaged.
func openIndex(path string, log *slog.Logger) (*index, error) {
	ix := &index{path: path, log: log}
	return ix, ix.start()
}

// start opens the file, or another in its place. On a disk that is full or failing the index
// is kept in memory, so that what the disk holds can be used all the same.
func (ix *index) start() error {
	err := ix.open(ix.path)
	if unusable(err) {
		ix.log.Warn("index is built anew", "path", ix.path, "err", err)
		if err = ix.moveAside(); err == nil {
			err = ix.open(ix.path)
		}
	}
	if err != nil {
		ix.log.Error("index cannot be written and is kept in memory; check that the disk is writable and not full", "path", ix.path, "err", err)
		err = ix.open(inMemory)
	}
	return err
}

const inMemory = ":memory:"

// errIndex says that a file is no index of this version.
var errIndex = errors.New("not this index")

// unusable says whether an error lies in what the file holds, not in reaching it.
func unusable(err error) bool {
	var se sqlite3.Error
	if errors.As(err, &se) {
		return se.Code == sqlite3.ErrCorrupt || se.Code == sqlite3.ErrNotADB || se.Code == sqlite3.ErrError
	}
	return errors.Is(err, errIndex)
}

// openDB opens a SQLite file with one connection, in WAL mode.
func openDB(path string) (*sql.DB, error) {
	name := path
	if path != inMemory {
		name = "file:" + (&url.URL{Path: path}).EscapedPath()
	}
	db, err := sql.Open("sqlite3", name+"?_journal_mode=WAL&_synchronous=NORMAL&_busy_timeout=10000&_txlock=immediate")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	return db, nil
}

func (ix *index) open(path string) error {
	_, err := os.Lstat(path)
	missing := path == inMemory || errors.Is(err, fs.ErrNotExist)
	if missing && path != inMemory {
		if err := ix.moveAside(); err != nil { // what is left of its log
			return err
		}
	}
	db, err := openDB(path)
	if err != nil {
		return err
	}
	err = func() error {
		var version int
		if err := db.QueryRow("PRAGMA user_version").Scan(&version); err != nil {
			return err
		}
		if missing && version == 0 {
			if _, err := db.Exec(fmt.Sprintf("BEGIN; %s PRAGMA user_version = %d; COMMIT", schema, indexVersion)); err != nil {
				return err
			}
		} else if version != indexVersion {
			return fmt.Errorf("%w: version %d, want %d", errIndex, version, indexVersion)
		}
		if err := db.QueryRow("SELECT clean FROM meta").Scan(&ix.clean); err != nil {
			return err
		}
		if !ix.clean {
			var verdict string
			if err := db.QueryRow("PRAGMA quick_check(1)").Scan(&verdict); err != nil {
				return err
			}
			if verdict != "ok" {
				return fmt.Errorf("%w: %s", errIndex, verdict)
			}
		}
		return durably(db, "UPDATE meta SET clean = 0")
	}()
	if err != nil {
		db.Close()
		return err
	}
	ix.db = db
	return nil
}

// durably runs a statement and waits until it is on disk. Others are only kept in order: what
// a power cut takes of them is built anew, because the unit is marked.
func durably(db *sql.DB, query string, args ...any) error {
	ctx := context.Background()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, "PRAGMA synchronous = FULL"); err != nil {
		return err
	}
	_, err = conn.ExecContext(ctx, query, args...)
	_, back := conn.ExecContext(ctx, "PRAGMA synchronous = NORMAL")
	return errors.Join(err, back)
}

// moveAside puts the file where it is not in the way, in place of the one put there before.
func (ix *index) moveAside() error {
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.Remove(ix.path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := os.Rename(ix.path, ix.path+".damaged"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// use runs do on the database. When the file turns out damaged it is replaced by an empty one
// and all units become stale.
func (ix *index) use(do func(db *sql.DB) error) error {
	ix.mu.RLock()
	db := ix.db
	err := fs.ErrClosed
	if db != nil {
		err = do(db)
	}
	ix.mu.RUnlock()
	var se sqlite3.Error
	if !errors.As(err, &se) || se.Code != sqlite3.ErrCorrupt && se.Code != sqlite3.ErrNotADB {
		return err // an ErrError here is a fault of the query, not of the file
	}
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if ix.db != db {
		return err // somebody else has seen to it
	}
	ix.log.Error("index is damaged and built anew", "path", ix.path, "err", err)
	db.Close()
	ix.db = nil
	if merr := ix.moveAside(); merr != nil {
		ix.log.Error("index cannot be moved aside", "path", ix.path, "err", merr)
	}
	if serr := ix.start(); serr != nil {
		return errors.Join(err, serr)
	}
	for _, u := range ix.units {
		row, ierr := insertUnit(ix.db, u, false)
		if ierr != nil {
			return errors.Join(err, ierr)
		}
		u.entry.mu.Lock()
		u.entry.row, u.entry.stale, u.entry.marked = row, true, false
		u.entry.mu.Unlock()
	}
	return err
}

type execer interface {
	Exec(query string, args ...any) (sql.Result, error)
}

func insertUnit(db execer, u *Unit, complete bool) (int64, error) {
	res, err := db.Exec("INSERT INTO unit (au, dir, complete) VALUES (?, ?, ?)", string(u.id), u.name, complete)
	if err != nil {
		return 0, err
	}
	return res.LastInsertId()
}

// adopt compares the index with the directories found on the disk, and finds out which units
// are stale.
func (ix *index) adopt(units []*Unit) error {
	ix.units = slices.Clone(units)
	type row struct {
		id              int64
		au, top, sites  string
		complete, dirty bool
	}
	rows := make(map[string]row)
	return ix.use(func(db *sql.DB) error {
		tx, err := db.Begin()
		if err != nil {
			return err
		}
		defer tx.Rollback()
		found, err := tx.Query("SELECT id, au, dir, complete, dirty, top, sites FROM unit")
		if err != nil {
			return err
		}
		defer found.Close()
		for found.Next() {
			var r row
			var name string
			if err := found.Scan(&r.id, &r.au, &name, &r.complete, &r.dirty, &r.top, &r.sites); err != nil {
				return err
			}
			rows[name] = r
		}
		if err := found.Err(); err != nil {
			return err
		}
		for _, u := range units {
			e := &u.entry
			r, ok := rows[u.name]
			if ok && r.au == string(u.id) {
				delete(rows, u.name)
				top, sites := u.evidence()
				e.row = r.id
				e.stale = !r.complete || r.dirty || r.sites != sites || ix.clean && r.top != top
				e.touched = !ix.clean
				continue
			}
			if ok {
				if err := deleteUnit(tx, r.id); err != nil {
					return err
				}
				delete(rows, u.name)
			}
			if e.row, err = insertUnit(tx, u, false); err != nil {
				return err
			}
			e.stale = true
		}
		for _, r := range rows {
			if err := deleteUnit(tx, r.id); err != nil {
				return err
			}
		}
		return tx.Commit()
	})
}

func deleteUnit(tx *sql.Tx, id int64) error {
	_, err := tx.Exec("DELETE FROM url WHERE unit = ?", id)
	if err == nil {
		_, err = tx.Exec("DELETE FROM unit WHERE id = ?", id)
	}
	return err
}

// add takes a new, empty unit into the index.
func (ix *index) add(u *Unit) {
	ix.mu.Lock()
	ix.units = append(ix.units, u)
	ix.mu.Unlock()
	err := ix.use(func(db *sql.DB) (err error) {
		u.entry.row, err = insertUnit(db, u, true)
		return err
	})
	u.entry.touched = true
	if err != nil {
		u.entry.stale = true
		ix.log.Warn("index does not have the unit", "au", u.id, "err", err)
	}
}

// evidence is what shows, without a walk, that others changed the unit: the time of its own
// directory, and the names and times of the directories of hosts and schemes.
func (u *Unit) evidence() (top, sites string) {
	d, err := u.open()
	if err != nil {
		return "", ""
	}
	defer d.close()
	stamp := func(d *dir) string {
		info, err := d.f.Stat()
		if err != nil {
			return "?"
		}
		return fmt.Sprint(info.ModTime().UnixNano())
	}
	var lines []string
	for _, host := range d.names() {
		hd, err := d.sub(host)
		if err != nil {
			continue
		}
		lines = append(lines, host+" "+stamp(hd))
		for _, scheme := range hd.names() {
			if sd, err := hd.sub(scheme); err == nil {
				lines = append(lines, host+"/"+scheme+" "+stamp(sd))
				sd.close()
			}
		}
		hd.close()
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	return stamp(d), hex.EncodeToString(sum[:12])
}

// names lists the directories in d that may be hosts or schemes.
func (d *dir) names() []string {
	entries, err := d.entries()
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), "#") {
			names = append(names, e.Name())
		}
	}
	return names
}

// begin notes durably, once until the next checkpoint, that the unit is stored into: after a
// crash its part of the index is not believed. The caller calls end when the index has what
// was stored.
func (ix *index) begin(u *Unit) (end func()) {
	e := &u.entry
	e.use.RLock()
	end = e.use.RUnlock
	e.dirty.Lock()
	defer e.dirty.Unlock()
	e.mu.Lock()
	row, marked := e.row, e.marked
	e.mu.Unlock()
	if marked {
		return end
	}
	err := ix.use(func(db *sql.DB) error {
		return durably(db, "UPDATE unit SET dirty = 1 WHERE id = ?", row)
	})
	e.mu.Lock()
	defer e.mu.Unlock()
	e.touched = true
	e.marked = err == nil
	if err != nil {
		// Without the mark the next run would believe what it finds. Removing the file needs no
		// space; it stays in use until the end of this run.
		e.stale = true
		ix.log.Warn("index is given up, the next start builds it anew", "au", u.id, "err", err, "removed", os.Remove(ix.path) == nil)
	}
	return end
}

// checkpoint takes the marks off units that are in order and not being stored into.
func (ix *index) checkpoint(units []*Unit) error {
	var errs []error
	for _, u := range units {
		errs = append(errs, ix.settle(u))
	}
	return errors.Join(errs...)
}

func (ix *index) settle(u *Unit) error {
	e := &u.entry
	if !e.use.TryLock() {
		return nil
	}
	defer e.use.Unlock()
	e.mu.Lock()
	row, idle := e.row, e.marked && !e.stale && e.again == nil
	e.mu.Unlock()
	if !idle {
		return nil
	}
	top, sites := u.evidence()
	err := ix.use(func(db *sql.DB) error {
		return durably(db, "UPDATE unit SET dirty = 0, top = ?, sites = ? WHERE id = ?", top, sites, row)
	})
	if err != nil {
		return fmt.Errorf("index of %s: %w", u.id, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.marked = false
	return nil
}

const upsert = `INSERT INTO url (unit, key, version, size, checksum, versions, gen) VALUES (?, ?, ?, ?, ?, ?, ?)
	ON CONFLICT (unit, key) DO UPDATE SET version = excluded.version, size = excluded.size,
	checksum = excluded.checksum, versions = excluded.versions, gen = excluded.gen`

// update reads one node and brings its entry up to date. The caller holds the node's lock, so
// that of two updates the later is the one that stays.
func (ix *index) update(u *Unit, comps []string) error {
	e := &u.entry
	e.mu.Lock()
	row, gen, stale := e.row, e.gen, e.stale
	if e.again != nil {
		e.again[strings.Join(comps, "/")] = comps
		stale = false
	}
	e.mu.Unlock()
	if stale {
		return nil // the rebuild finds it in the tree
	}
	err := ix.put(u, comps, row, gen)
	if err != nil {
		e.mu.Lock()
		e.stale = true
		e.mu.Unlock()
	}
	return err
}

func (ix *index) put(u *Unit, comps []string, row, gen int64) error {
	node, err := pathURL(comps)
	if err != nil {
		return err
	}
	item, err := u.item(node, comps)
	if errors.Is(err, ErrNotPreserved) {
		return ix.use(func(db *sql.DB) error {
			_, err := db.Exec("DELETE FROM url WHERE unit = ? AND key = ?", row, urlKey(node))
			return err
		})
	}
	if err != nil {
		return err
	}
	return ix.use(func(db *sql.DB) error {
		_, err := db.Exec(upsert, row, urlKey(item.URL), item.Version, item.Size, item.Checksum, item.Versions, gen)
		return err
	})
}

// item reads a node as the index has it. The caller holds the node's lock.
func (u *Unit) item(node string, comps []string) (Item, error) {
	c, err := u.lookOnce(comps)
	if c != nil {
		defer c.close()
	}
	if err != nil {
		return Item{}, err
	}
	older, err := c.numbers()
	if err != nil {
		return Item{}, err
	}
	item := Item{URL: node, Version: c.number, Size: c.size, Checksum: c.props[keyChecksum], Versions: 1 + len(older)}
	if c.body != nil {
		item.Size = -1
	}
	return item, nil
}

// close writes down the evidence of units that are in order, and that the run ended well.
func (ix *index) close(units []*Unit) error {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if ix.db == nil {
		return nil
	}
	err := func() error {
		tx, err := ix.db.Begin()
		if err != nil {
			return err
		}
		defer tx.Rollback()
		for _, u := range units {
			e := &u.entry
			if e.isStale() || !e.touched && !e.marked {
				continue
			}
			top, sites := u.evidence()
			if _, err := tx.Exec("UPDATE unit SET dirty = 0, top = ?, sites = ? WHERE id = ?", top, sites, e.row); err != nil {
				return err
			}
		}
		if _, err := tx.Exec("UPDATE meta SET clean = 1"); err != nil {
			return err
		}
		return tx.Commit()
	}()
	// The last connection to close writes the log back into the file.
	err = errors.Join(err, ix.db.Close())
	ix.db = nil
	return err
}

// Summary returns the unit's totals. A stale index is rebuilt first, which takes as long as a
// walk.
func (u *Unit) Summary() (UnitSummary, error) {
	var s UnitSummary
	err := u.fresh(func(db *sql.DB, row int64) error {
		return db.QueryRow("SELECT urls, bytes, versions FROM unit WHERE id = ?", row).Scan(&s.URLs, &s.Bytes, &s.Versions)
	})
	if err != nil {
		return s, fmt.Errorf("summary of %s: %w", u.id, u.root.explain(err))
	}
	return s, nil
}

// List returns up to limit URLs after the given one ("" from the first) in canonical order, at
// most 10000. A stale index is rebuilt first.
func (u *Unit) List(after string, limit int) ([]Item, error) {
	var items []Item
	err := u.fresh(func(db *sql.DB, row int64) error {
		items = nil
		rows, err := db.Query("SELECT key, version, size, checksum, versions FROM url WHERE unit = ? AND key > ? ORDER BY key LIMIT ?",
			row, urlKey(after), min(limit, 10000))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var it Item
			var key []byte
			if err := rows.Scan(&key, &it.Version, &it.Size, &it.Checksum, &it.Versions); err != nil {
				return err
			}
			it.URL = keyURL(key)
			items = append(items, it)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", u.id, u.root.explain(err))
	}
	return items, nil
}

// fresh runs a query on an index that is not stale.
func (u *Unit) fresh(query func(db *sql.DB, row int64) error) error {
	for try := 0; ; try++ {
		if u.entry.isStale() {
			if err := u.rebuild(context.Background()); err != nil {
				return err
			}
		}
		u.entry.mu.Lock()
		row := u.entry.row
		u.entry.mu.Unlock()
		err := u.root.index.use(func(db *sql.DB) error { return query(db, row) })
		if err == nil || try == 1 || !u.entry.isStale() {
			return err
		}
	}
}

// Find returns the units that hold a URL, sorted. Units whose index is stale are looked into.
func (s *Store) Find(url string) []lockss.AUID {
	node, err := lockss.NodeURL(url)
	if err != nil {
		return nil
	}
	var found []lockss.AUID
	for _, r := range s.roots {
		if r.err != nil {
			continue
		}
		held := make(map[string]bool) // by directory
		err := r.index.use(func(db *sql.DB) error {
			rows, err := db.Query("SELECT unit.dir FROM unit JOIN url ON url.unit = unit.id AND url.key = ?", urlKey(node))
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var name string
				if err := rows.Scan(&name); err != nil {
					return err
				}
				held[name] = true
			}
			return rows.Err()
		})
		if err != nil {
			s.log.Warn("index cannot be asked, looking at the disk", "root", r.path, "err", err)
		}
		for _, u := range s.on(r) {
			has := held[u.name]
			if err != nil || u.entry.isStale() {
				_, cerr := u.Current(url)
				has = cerr == nil
			}
			if has {
				found = append(found, u.id)
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// urlKey gives a URL the form whose byte order is the canonical order: each UTF-16 code unit
// in the bytes of UTF-8, and 0 for '/'.
func urlKey(url string) []byte {
	key := make([]byte, 0, len(url)+8)
	for _, r := range url {
		switch {
		case r == '/':
			key = append(key, 0)
		case r > 0xFFFF:
			high, low := utf16.EncodeRune(r)
			key = appendUnit(appendUnit(key, high), low)
		default:
			key = utf8.AppendRune(key, r)
		}
	}
	return key
}

func appendUnit(b []byte, u rune) []byte {
	return append(b, 0xE0|byte(u>>12), 0x80|byte(u>>6)&0x3F, 0x80|byte(u)&0x3F)
}

// keyURL undoes urlKey.
func keyURL(key []byte) string {
	var b strings.Builder
	for i := 0; i < len(key); {
		switch {
		case key[i] == 0:
			b.WriteByte('/')
			i++
		case key[i] == 0xED && i+5 < len(key) && key[i+1] >= 0xA0:
			unit := func(p []byte) rune { return 0xD000 | rune(p[1]&0x3F)<<6 | rune(p[2]&0x3F) }
			b.WriteRune(utf16.DecodeRune(unit(key[i:]), unit(key[i+3:])))
			i += 6
		default:
			b.WriteByte(key[i])
			i++
		}
	}
	return b.String()
}

// now is the generation of a rebuild: later than those of all runs before.
func now() int64 { return time.Now().UnixNano() }
