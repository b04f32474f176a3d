package store

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/mattn/go-sqlite3"
	"golang.org/x/sys/unix"

	"armarium/daemon/javaprops"
	"armarium/daemon/lockss"
)

const unitIDFile = "#au_id_file"

// A root is one disk.
type root struct {
	path  string // as configured
	err   error  // why it cannot be used, or nil
	dir   *dir
	cache *dir
	guard *os.File // locked as long as the disk is ours
	index *index

	allocMu sync.Mutex
	last    int // number of the name last given out in this run
}

// RootInfo is one disk as an operator sees it.
type RootInfo struct {
	Path        string
	Total, Free uint64 // bytes of its file system; free to an unprivileged user
	Err         error  // why it is not in use, or nil
}

// openRoot opens a disk; its err tells whether that worked. The last directory of the path
// and cache/ below it are made when missing, others are not: a mount point without its disk
// is to be noticed.
func openRoot(path string, log *slog.Logger) *root {
	r := &root{path: path}
	r.err = func() (err error) {
		if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return &LayoutError{Path: path, Hint: "check that the disk is mounted", Err: err}
		}
		if r.dir, err = openDir(path); err != nil {
			return err
		}
		// What an earlier run made but did not sync in time is durable after this; all that
		// is made from here on is synced when it is made.
		if err := unix.Syncfs(r.dir.fd()); err != nil {
			return r.dir.fail("sync", "", err)
		}
		if r.guard, err = r.dir.create("index.lock", 0o644); err != nil {
			return r.explain(err)
		}
		if err := unix.Flock(int(r.guard.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			return &LayoutError{Path: path, Hint: "stop the other node first", Err: errors.New("another node uses this disk")}
		}
		if err := r.dir.mkdir("cache"); err != nil && !errors.Is(err, fs.ErrExist) {
			return r.explain(err)
		}
		// cache itself may be a link that the operator made.
		if r.cache, err = openDir(filepath.Join(path, "cache")); err != nil {
			return err
		}
		r.index, err = openIndex(filepath.Join(path, "index.db"), log)
		return err
	}()
	return r
}

func (r *root) close(units []*Unit) error {
	var errs []error
	if r.index != nil {
		errs = append(errs, r.explain(r.index.close(units)))
	}
	for _, d := range []*dir{r.cache, r.dir} {
		if d != nil {
			errs = append(errs, d.close())
		}
	}
	if r.guard != nil {
		errs = append(errs, r.guard.Close()) // unlocks
	}
	return errors.Join(errs...)
}

// explain names the disk, and what to do, in an error about space or a disk that fails.
func (r *root) explain(err error) error {
	var se sqlite3.Error
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.As(err, &se) && se.Code == sqlite3.ErrFull:
		return &LayoutError{Path: r.path, Hint: "the disk is full: add a disk or move units to another", Err: err}
	case errors.Is(err, unix.EROFS):
		return &LayoutError{Path: r.path, Hint: "the disk is read-only, which a file system may become after an error: check it", Err: err}
	case errors.Is(err, unix.EIO):
		return &LayoutError{Path: r.path, Hint: "the disk reports an error: check it", Err: err}
	}
	return err
}

// allocate makes the directory of a new unit under the next free name (repository.md 2).
// The caller holds allocMu.
func (r *root) allocate(id lockss.AUID, tries int) (string, error) {
	for range tries {
		r.last++
		name := unitName(r.last)
		err := r.cache.mkdir(name)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		d, err := r.cache.sub(name)
		if err != nil {
			return "", err
		}
		defer d.close()
		text := javaprops.Append(nil, []string{"ArchivalUnit id info", dateComment()}, map[string]string{"au.id": string(id)})
		if err := d.replace(unitIDFile, text, 0o444); err != nil {
			return "", errors.Join(err, r.cache.remove(name, true))
		}
		return name, nil
	}
	return "", fmt.Errorf("no free name among %d below %s", tries, r.cache.f.Name())
}

// Roots tells of each disk, in configured order, how full it is.
func (s *Store) Roots() []RootInfo {
	infos := make([]RootInfo, 0, len(s.roots))
	for _, r := range s.roots {
		info := RootInfo{Path: r.path, Err: r.err}
		var st unix.Statfs_t
		if err := unix.Statfs(r.path, &st); err == nil {
			info.Total = st.Blocks * uint64(st.Bsize)
			info.Free = st.Bavail * uint64(st.Bsize)
		} else if info.Err == nil {
			info.Err = &LayoutError{Path: r.path, Hint: "check that the disk is mounted", Err: err}
		}
		infos = append(infos, info)
	}
	return infos
}
