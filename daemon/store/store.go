package store

import (
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"armarium/daemon/javaprops"
	"armarium/daemon/lockss"
)

// ErrNotPreserved says that a unit has no such URL, or only an inactive or deleted one.
var ErrNotPreserved = errors.New("not preserved")

// ErrNoUnit says that no disk has a directory for the unit.
var ErrNoUnit = errors.New("no such unit on any disk")

// ErrNoBody says that the properties of a version are there, but its bytes are not.
var ErrNoBody = errors.New("the body is missing")

// ErrBusy says that a URL is being written by somebody else.
var ErrBusy = errors.New("is being written")

// A LayoutError is a place on a disk that an operator has to look at.
type LayoutError struct {
	Path string
	Hint string // what the operator can do
	Err  error
}

func (e *LayoutError) Error() string {
	s := fmt.Sprintf("%s: %v", e.Path, e.Err)
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

func (e *LayoutError) Unwrap() error { return e.Err }

// Config says which disks a Store uses, and how.
type Config struct {
	Roots []string // directories, at least one; the first is the default for new units

	// KeepProps keeps the properties that a fetch of unchanged bytes supersedes.
	KeepProps bool `prop:"org.lockss.repository.keepAllPropsForDupFile" default:"false"`
	// MaxDirSearch limits the search for a free directory name; 0 means 30000.
	MaxDirSearch int `prop:"org.lockss.repository.maxUnusedDirSearch" default:"30000"`

	Log *slog.Logger // nil: discard
}

// A Store is all units on all disks.
type Store struct {
	cfg   Config
	log   *slog.Logger
	roots []*root

	seed  maphash.Seed
	locks [256]sync.RWMutex // of nodes, shared by hash of their place

	mu     sync.Mutex
	units  map[lockss.AUID][]*Unit // the best copy first, see Unit
	faults []*LayoutError

	// crash, in tests, is asked before each change to a node and stops it there for good.
	crash func(op string) error
}

// UnitInfo is one unit's directory.
type UnitInfo struct {
	ID   lockss.AUID
	Root string // as configured
	Dir  string // full path
}

// Open opens the disks and finds their units. A disk that cannot be used is logged, reported
// by [Store.Roots] and left out; Open fails when none is left. It holds the disks against
// other processes until Close.
func Open(cfg Config) (*Store, error) {
	s := &Store{
		cfg:   cfg,
		log:   cfg.Log,
		seed:  maphash.MakeSeed(),
		units: make(map[lockss.AUID][]*Unit),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.cfg.MaxDirSearch <= 0 {
		s.cfg.MaxDirSearch = 30000
	}
	if len(cfg.Roots) == 0 {
		return nil, errors.New("store: no disk is configured")
	}
	var errs []error
	for _, path := range cfg.Roots {
		path = strings.TrimPrefix(path, "local:")
		r := openRoot(path, s.log)
		s.roots = append(s.roots, r)
		if r.err == nil {
			r.err = s.scan(r)
		}
		if r.err != nil {
			s.log.Error("disk cannot be used", "root", path, "err", r.err)
			errs = append(errs, r.err)
		}
	}
	if len(errs) == len(s.roots) {
		return nil, errors.Join(append(errs, s.Close())...)
	}
	for _, units := range s.units {
		s.rank(units)
	}
	return s, nil
}

// Close writes down that the index is in order, and lets go of the disks. Writers that are
// still open are lost.
func (s *Store) Close() error {
	var errs []error
	for _, r := range s.roots {
		errs = append(errs, r.close(s.on(r)))
	}
	return errors.Join(errs...)
}

// Checkpoint notes durably that the index of each unit is in order that nobody is storing into
// just now. After a crash these need no rebuild. It is to be called from time to time.
func (s *Store) Checkpoint() error {
	var errs []error
	for _, r := range s.roots {
		if r.err == nil {
			errs = append(errs, r.index.checkpoint(s.on(r)))
		}
	}
	return errors.Join(errs...)
}

// scan finds the units of a disk (repository.md 2).
func (s *Store) scan(r *root) error {
	entries, err := r.cache.entries()
	if err != nil {
		return err
	}
	var units []*Unit
	for _, e := range entries {
		name := e.Name()
		if !e.IsDir() {
			if e.Type()&fs.ModeSymlink != 0 {
				s.fault(r.cache.path(name), "move the directory itself here, or below another disk", errors.New("symbolic link is not followed"))
			}
			continue
		}
		id, created, err := readUnitID(r.cache, name)
		if err != nil {
			s.fault(r.cache.path(name), "a directory without "+unitIDFile+" belongs to no unit; its content is left alone", err)
			continue
		}
		u := newUnit(s, r, id, name)
		u.created = created
		units = append(units, u)
	}
	slices.SortFunc(units, func(a, b *Unit) int {
		return cmp.Or(cmp.Compare(len(a.name), len(b.name)), cmp.Compare(a.name, b.name))
	})
	s.mu.Lock()
	for _, u := range units {
		s.units[u.id] = append(s.units[u.id], u)
	}
	s.mu.Unlock()
	return r.index.adopt(units)
}

// fault notes a place that an operator has to look at.
func (s *Store) fault(path, hint string, err error) {
	s.log.Warn("disk layout", "path", path, "err", err, "hint", hint)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &LayoutError{Path: path, Hint: hint, Err: err})
}

// rank puts the directory to use first when a unit has several: one with content before an
// empty one, then in the order of the disks and names.
func (s *Store) rank(units []*Unit) {
	if len(units) < 2 {
		return
	}
	full := make(map[*Unit]bool)
	for _, u := range units {
		full[u] = u.hasContent()
	}
	slices.SortStableFunc(units, func(a, b *Unit) int {
		switch {
		case full[a] && !full[b]:
			return -1
		case full[b] && !full[a]:
			return 1
		}
		return 0
	})
	for _, u := range units[1:] {
		s.fault(u.Dir(), "remove the directory that is not needed, or move it away from cache/",
			fmt.Errorf("%s has also %s, which is used", u.id, units[0].Dir()))
	}
}

// Units lists all units on all disks, sorted by id; a unit with several directories occurs
// with each.
func (s *Store) Units() []UnitInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	var infos []UnitInfo
	for _, units := range s.units {
		for _, u := range units {
			infos = append(infos, UnitInfo{ID: u.id, Root: u.root.path, Dir: u.Dir()})
		}
	}
	slices.SortFunc(infos, func(a, b UnitInfo) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Dir, b.Dir))
	})
	return infos
}

// Faults lists what was found amiss on the disks when they were opened: directories without
// id, units with two directories.
func (s *Store) Faults() []*LayoutError {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.faults)
}

// Unit returns a unit that has a directory, or [ErrNoUnit]. Of several directories it is the
// one last asked of [Store.Create], else one with content.
func (s *Store) Unit(id lockss.AUID) (*Unit, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if units := s.units[id]; len(units) > 0 {
		return units[0], nil
	}
	return nil, fmt.Errorf("unit %s: %w", id, ErrNoUnit)
}

// Create returns the unit's directory on the disk root (as configured, or
// "local:/cache0/gamma"), and makes it when it is missing. With root "" it is the directory
// on any disk, made on the first disk when there is none.
func (s *Store) Create(id lockss.AUID, root string) (*Unit, error) {
	if id == "" || len(id) > maxURL {
		return nil, fmt.Errorf("unit id of %d bytes: want 1 to %d", len(id), maxURL)
	}
	root = strings.TrimPrefix(root, "local:")
	if root == "" {
		if u, err := s.Unit(id); err == nil {
			return u, nil
		}
	}
	r, err := s.root(root)
	if err != nil {
		return nil, fmt.Errorf("create unit %s: %w", id, err)
	}
	r.allocMu.Lock() // one unit at a time; the second caller finds what the first made
	defer r.allocMu.Unlock()

	s.mu.Lock()
	units := s.units[id]
	if i := slices.IndexFunc(units, func(u *Unit) bool { return u.root == r }); i >= 0 {
		u := units[i]
		units[0], units[i] = u, units[0]
		s.mu.Unlock()
		return u, nil
	}
	s.mu.Unlock()
	name, err := r.allocate(id, s.cfg.MaxDirSearch)
	if err != nil {
		return nil, r.explain(fmt.Errorf("create unit %s: %w", id, err))
	}
	u := newUnit(s, r, id, name)
	u.created = time.Now()
	r.index.add(u)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.units[id] = append([]*Unit{u}, s.units[id]...)
	return u, nil
}

// root finds a usable disk by its path, first literally, then with links resolved.
func (s *Store) root(path string) (*root, error) {
	if path == "" {
		for _, r := range s.roots {
			if r.err == nil {
				return r, nil
			}
		}
	}
	for _, same := range []func(string) string{filepath.Clean, resolved} {
		for _, r := range s.roots {
			if same(r.path) == same(path) {
				return r, r.err
			}
		}
	}
	return nil, &LayoutError{
		Path: path,
		Hint: "check reserved.repository of the unit, or add the disk to the list of disks",
		Err:  errors.New("is not one of this node's disks"),
	}
}

func resolved(path string) string {
	if p, err := filepath.EvalSymlinks(path); err == nil {
		return p
	}
	return filepath.Clean(path)
}

// on lists the units of one disk.
func (s *Store) on(r *root) []*Unit {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*Unit
	for _, units := range s.units {
		for _, u := range units {
			if u.root == r {
				all = append(all, u)
			}
		}
	}
	slices.SortFunc(all, func(a, b *Unit) int { return cmp.Compare(a.id, b.id) })
	return all
}

// lock returns the lock of a node. Nodes share locks, so a holder must not wait for another.
func (s *Store) lock(u *Unit, comps []string) *sync.RWMutex {
	h := maphash.String(s.seed, u.name+"\x00"+strings.Join(comps, "/"))
	return &s.locks[h%uint64(len(s.locks))]
}

// readUnitID reads whose directory this is, and when it was made.
func readUnitID(cache *dir, name string) (lockss.AUID, time.Time, error) {
	d, err := cache.sub(name)
	if err != nil {
		return "", time.Time{}, err
	}
	defer d.close()
	b, err := d.read(unitIDFile, 64<<10)
	if err != nil {
		return "", time.Time{}, err
	}
	props, err := javaprops.Parse(b)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("%s: %w", unitIDFile, err)
	}
	if props["au.id"] == "" {
		return "", time.Time{}, fmt.Errorf("%s: no au.id", unitIDFile)
	}
	st, err := d.stat(unitIDFile)
	if err != nil {
		return "", time.Time{}, err
	}
	return lockss.AUID(props["au.id"]), time.Unix(st.Mtim.Unix()), nil
}

// dateComment is the second line of a property file: "Wed Nov 07 10:00:00 UTC 2012".
func dateComment() string { return time.Now().UTC().Format("Mon Jan 02 15:04:05 MST 2006") }
