// Package journal keeps what a node did and cannot learn again from its disks: the history of
// polls, crawls and repairs, the audit trail of its users, and small values by key. It is one
// SQLite file, node.db; schema.sql is its format.
//
//	AddPoll UpdatePoll Polls RunningPolls EndRunning    polls called and voted in
//	AddCrawl UpdateCrawl Crawls                         crawls, with URLs that failed
//	AddRepair Repairs                                   URLs replaced, from whom, and why
//	AddAction Actions                                   who did what in the administration
//	Get Put Keys                                        estimates, checkpoints and the like
//
// What a method has returned for is durable, also through a power cut (WAL, synchronous=FULL).
// Records are never removed.
//
// [Journal.Mirror] copies the whole file to another disk. When node.db is missing or damaged,
// [Open] moves what is there aside and goes on from the latest copy that is whole, or afresh.
//
// A Journal is safe for concurrent use.
package journal

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mattn/go-sqlite3"
)

//go:embed schema.sql
var schema string

// ErrNewer says that the file was written by a later version of the program.
var ErrNewer = errors.New("journal has a later format: it was written by a newer release")

// A Journal is an open node.db.
type Journal struct {
	path   string
	db     *sql.DB // one connection
	rescue string
}

// Open opens the journal at path, and makes it when it is missing. The mirrors are directories
// to which [Journal.Mirror] copied it; they are looked at only when the file is missing or
// damaged. A damaged file is kept as <path>.damaged-<time>, with the reason beside it in
// <path>.damaged-<time>.txt; see [Journal.Rescue]. A file of a newer release is ErrNewer.
func Open(path string, mirrors ...string) (*Journal, error) {
	j := &Journal{path: path}
	_, err := os.Lstat(path)
	missing := errors.Is(err, fs.ErrNotExist)
	if !missing {
		err = j.open()
		if err == nil || !damaged(err) {
			return j.orFail(err)
		}
		aside, aerr := moveAside(path, ".damaged-", err)
		if aerr != nil {
			return nil, fmt.Errorf("journal %s is damaged (%v) and cannot be moved aside: %w", path, err, aerr)
		}
		j.rescue = fmt.Sprintf("%s was damaged (%v) and is kept as %s", path, err, aside)
	}
	from, err := latest(path, mirrors)
	if err != nil {
		return nil, fmt.Errorf("journal %s: %w", path, err)
	}
	switch {
	case from != "":
		if err := copyFile(from, path); err != nil {
			return nil, fmt.Errorf("journal %s: copy of %s: %w", path, from, err)
		}
		if missing {
			j.rescue = path + " was missing"
		}
		j.rescue += "; the journal goes on from the copy " + from
	case j.rescue != "":
		j.rescue += "; there is no copy, the journal begins anew"
	}
	return j.orFail(j.open())
}

func (j *Journal) orFail(err error) (*Journal, error) {
	if err != nil {
		return nil, fmt.Errorf("journal %s: %w", j.path, err)
	}
	return j, nil
}

// Rescue tells what happened when the file was missing or damaged and another had to do, or
// "".
func (j *Journal) Rescue() string { return j.rescue }

// Path returns where the journal is.
func (j *Journal) Path() string { return j.path }

// Close closes the file. Records are durable before.
func (j *Journal) Close() error { return j.db.Close() }

// connect opens a SQLite file; mode is "rwc", or "rw" for one that has to exist.
func connect(path, mode string) (*sql.DB, error) {
	name := "file:" + (&url.URL{Path: path}).EscapedPath()
	db, err := sql.Open("sqlite3", name+"?mode="+mode+"&_journal_mode=WAL&_synchronous=FULL&_busy_timeout=10000&_txlock=immediate&_foreign_keys=1")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	return db, nil
}

// open opens the file for use, checks it and brings its schema up to date.
func (j *Journal) open() error {
	db, err := connect(j.path, "rwc")
	if err != nil {
		return err
	}
	err = func() error {
		if err := check(db); err != nil {
			return err
		}
		if err := migrate(db, schema); err != nil {
			return err
		}
		id := make([]byte, 16)
		rand.Read(id)
		if _, err := db.Exec("INSERT INTO meta (id, opened) SELECT ?, 0 WHERE NOT EXISTS (SELECT 1 FROM meta)", hex.EncodeToString(id)); err != nil {
			return err
		}
		if _, err := db.Exec("UPDATE meta SET opened = opened + 1"); err != nil {
			return err
		}
		// A new file is there only when its name is durable.
		return syncDir(filepath.Dir(j.path))
	}()
	if err != nil {
		return errors.Join(err, db.Close())
	}
	j.db = db
	return nil
}

// errDamaged is the finding of SQLite's own check.
var errDamaged = errors.New("damaged")

func check(db *sql.DB) error {
	var verdict string
	if err := db.QueryRow("PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return err
	}
	if verdict != "ok" {
		return fmt.Errorf("%w: %s", errDamaged, verdict)
	}
	return nil
}

// damaged says whether an error means that the bytes of a file are wrong, not that it cannot
// be reached or belongs to somebody else.
func damaged(err error) bool {
	var se sqlite3.Error
	return errors.Is(err, errDamaged) || errors.As(err, &se) && (se.Code == sqlite3.ErrCorrupt || se.Code == sqlite3.ErrNotADB)
}

// migrate applies the sections of a schema that a file does not have yet, each as a whole.
func migrate(db *sql.DB, schema string) error {
	var have int
	if err := db.QueryRow("PRAGMA user_version").Scan(&have); err != nil {
		return err
	}
	sections := strings.Split(schema, "\n-- version ")[1:]
	if have > len(sections) {
		return fmt.Errorf("version %d, this release knows %d: %w", have, len(sections), ErrNewer)
	}
	for i, section := range sections {
		number, text, _ := strings.Cut(section, "\n")
		if number != strconv.Itoa(i+1) {
			return fmt.Errorf("schema: section %d is headed version %s", i+1, number)
		}
		if i < have {
			continue
		}
		tx, err := db.Begin()
		if err != nil {
			return err
		}
		_, err = tx.Exec(text)
		if err == nil {
			_, err = tx.Exec(fmt.Sprintf("PRAGMA user_version = %d", i+1))
		}
		if err == nil {
			err = tx.Commit()
		}
		if err != nil {
			return errors.Join(fmt.Errorf("schema: version %d: %w", i+1, err), ignoreDone(tx.Rollback()))
		}
	}
	return nil
}

func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}

// moveAside renames a file and what belongs to it to a name of its own, with the time in it,
// and writes down why.
func moveAside(path, kind string, reason error) (string, error) {
	aside := path + kind + time.Now().UTC().Format("20060102T150405.000000Z")
	if _, err := os.Lstat(aside); err == nil {
		return "", fmt.Errorf("move %s aside: %s: %w", path, aside, fs.ErrExist)
	}
	// The log goes first: without its file it could be taken for that of the next one.
	for _, suffix := range []string{"-wal", "-shm", ""} {
		if err := os.Rename(path+suffix, aside+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	if err := os.WriteFile(aside+".txt", []byte(reason.Error()+"\n"), 0o644); err != nil {
		return "", err
	}
	return aside, syncDir(filepath.Dir(path))
}

// latest finds, among the copies of a journal, the whole one that was in use last; "" when
// there is none.
func latest(path string, mirrors []string) (string, error) {
	type candidate struct {
		path   string
		opened int64
		time   time.Time
	}
	var all []candidate
	for _, dir := range mirrors {
		copied := filepath.Join(dir, filepath.Base(path))
		info, err := os.Stat(copied)
		if err != nil || copied == path {
			continue // a disk that is away has no copy to offer
		}
		_, opened, err := identify(copied)
		if errors.Is(err, ErrNewer) {
			return "", fmt.Errorf("copy %s: %w", copied, err)
		}
		if err == nil {
			all = append(all, candidate{copied, opened, info.ModTime()})
		}
	}
	if len(all) == 0 {
		return "", nil
	}
	return slices.MaxFunc(all, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.opened, b.opened), a.time.Compare(b.time))
	}).path, nil
}

// identify checks a journal that is not in use and reads which one it is. Its log, if any, is
// written back into it.
func identify(path string) (id string, opened int64, err error) {
	db, err := connect(path, "rw")
	if err != nil {
		return "", 0, err
	}
	defer db.Close()
	if err := check(db); err != nil {
		return "", 0, err
	}
	var version int
	if err := db.QueryRow("PRAGMA user_version").Scan(&version); err != nil {
		return "", 0, err
	}
	if version > strings.Count(schema, "\n-- version ") {
		return "", 0, ErrNewer
	}
	err = db.QueryRow("SELECT id, opened FROM meta").Scan(&id, &opened)
	return id, opened, err
}

// Mirror copies the journal, as it is now, into a directory on another disk, under its own
// file name, and returns when the copy is durable. A journal that is there already and is not
// an earlier copy of this one, because the node ran from it while this disk was away, is kept
// under <name>.other-<time>.
func (j *Journal) Mirror(ctx context.Context, dir string) error {
	if err := j.mirror(ctx, dir); err != nil {
		return fmt.Errorf("copy journal to %s: %w", dir, err)
	}
	return nil
}

func (j *Journal) mirror(ctx context.Context, dir string) error {
	to := filepath.Join(dir, filepath.Base(j.path))
	if same(to, j.path) {
		return errors.New("that is where the journal itself is")
	}
	temp := to + ".copy"
	if err := remove(temp); err != nil {
		return err
	}
	if _, err := j.db.ExecContext(ctx, "VACUUM INTO ?", temp); err != nil {
		return errors.Join(err, remove(temp))
	}
	err := syncFile(temp)
	if err == nil {
		err = j.makeWay(ctx, to)
	}
	if err == nil {
		err = os.Rename(temp, to)
	}
	if err != nil {
		return errors.Join(err, remove(temp))
	}
	return syncDir(dir)
}

// makeWay deals with a file where a copy is to be put.
func (j *Journal) makeWay(ctx context.Context, to string) error {
	if _, err := os.Lstat(to); err == nil {
		var id string
		var opened int64
		if err := j.db.QueryRowContext(ctx, "SELECT id, opened FROM meta").Scan(&id, &opened); err != nil {
			return err
		}
		theirs, theirOpened, err := identify(to)
		if err != nil || theirs != id || theirOpened > opened {
			reason := fmt.Errorf("not an earlier copy of %s (%v)", j.path, err)
			if _, err := moveAside(to, ".other-", reason); err != nil {
				return err
			}
		}
	}
	// A log left there would be taken for that of the new file.
	return errors.Join(remove(to+"-wal"), remove(to+"-shm"))
}

func same(a, b string) bool {
	ia, errA := os.Stat(a)
	ib, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(ia, ib)
}

func remove(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// copyFile copies a file that nobody writes; the new one is there as a whole or not at all.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	temp := to + ".copy"
	out, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Sync(), out.Close()); err == nil {
		err = errors.Join(remove(to+"-wal"), remove(to+"-shm"))
	}
	if err == nil {
		err = os.Rename(temp, to)
	}
	if err != nil {
		return errors.Join(err, remove(temp))
	}
	return syncDir(filepath.Dir(to))
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
