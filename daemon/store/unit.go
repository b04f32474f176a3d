package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"armarium/daemon/javaprops"
	"armarium/daemon/lockss"
)

const (
	nodePropsFile = "#node_props"
	maxProps      = 1 << 20 // bytes of a property file

	current, currentProps   = "current", "current.props"
	inactive, inactiveProps = "inactive", "inactive.props"
	temp, tempProps         = "temp", "temp.props"

	keyVersion     = "org.lockss.version.number"
	keyWasInactive = "org.lockss.node.was.inactive"
	keyChecksum    = "x-lockss-checksum"
	keyNodeURL     = "x-lockss-node-url"
	keyFetched     = "x_lockss-server-date"
)

// A Unit is the content and state of one archival unit.
type Unit struct {
	store   *Store
	root    *root
	id      lockss.AUID
	name    string // of its directory in cache/
	created time.Time

	// dirs keeps the making of directories apart from the removal of those that an
	// abandoned writer left empty.
	dirs sync.Mutex
	// state keeps apart writers of one state file.
	state sync.Mutex

	mu      sync.Mutex
	writing map[string]bool // nodes with an open Writer

	entry entry // its part of the index
}

func newUnit(s *Store, r *root, id lockss.AUID, name string) *Unit {
	return &Unit{store: s, root: r, id: id, name: name, writing: make(map[string]bool)}
}

// ID returns the unit's id.
func (u *Unit) ID() lockss.AUID { return u.id }

// Dir returns the full path of the unit's directory.
func (u *Unit) Dir() string { return u.root.cache.path(u.name) }

// Root returns the disk that the unit is on, as configured.
func (u *Unit) Root() string { return u.root.path }

// Created returns when the unit's directory was made (repository.md 2).
func (u *Unit) Created() time.Time { return u.created }

// path returns the full path of a directory in the unit.
func (u *Unit) path(comps []string) string { return filepath.Join(u.Dir(), filepath.Join(comps...)) }

// fail gives an error of an operation on a URL its place.
func (u *Unit) fail(op, url string, err error) error {
	return fmt.Errorf("%s %s in %s: %w", op, url, u.id, u.root.explain(err))
}

// open opens the unit's directory.
func (u *Unit) open() (*dir, error) { return u.root.cache.sub(u.name) }

// node opens the directory of a node. The error is fs.ErrNotExist when there is none.
func (u *Unit) node(comps []string) (*dir, error) {
	return u.root.cache.descend(append([]string{u.name}, comps...))
}

// place returns where a URL is or is to be stored. A directory that carries exactly this
// name is preferred to the one of the normalised URL: so everything that [Unit.Walk] reports
// is found again, also directories of old disks whose names were never normalised.
func (u *Unit) place(url string) ([]string, error) {
	node, err := lockss.NodeURL(url)
	if err != nil {
		return nil, err
	}
	if _, rest, ok := strings.Cut(node, "://"); !ok || rest == "" || rest[0] == '/' {
		return nil, fmt.Errorf("url %q: no host", url)
	}
	comps, err := urlPath(node)
	if err != nil || url == node {
		return comps, err
	}
	if exact, err := urlPath(url); err == nil && !slices.Equal(exact, comps) {
		if d, err := u.node(append(exact, contentDir)); err == nil {
			d.close()
			return exact, nil
		}
	}
	return comps, nil
}

// versionOf reads the number of a version from its properties; 0 if there is none that is
// valid.
func versionOf(props map[string]string) int { return atoi(props[keyVersion]) }

// atoi reads a version number, in properties or as a file name: 0 unless it is decimal,
// positive, and as strconv.Itoa writes it.
func atoi(s string) int {
	if s == "" || len(s) > 9 || s[0] == '0' {
		return 0
	}
	n := 0
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0
		}
		n = n*10 + int(c-'0')
	}
	return n
}

func readProps(d *dir, name string) (map[string]string, error) {
	b, err := d.read(name, maxProps)
	if err != nil {
		return nil, err
	}
	props, err := javaprops.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.path(name), err)
	}
	return props, nil
}

// content is a node's #content directory, open, as last looked at.
type content struct {
	*dir
	props  map[string]string // of the current version
	number int               // its number; 0: there is no current version
	size   int64
	body   error // why it has no bytes, or nil
}

// look opens a node's content. Unless it finds an active version that is whole, it examines
// what a crash may have left, and looks again. The result, when err is nil, is to be closed.
// ErrNotPreserved: no current version (repository.md 4.2).
func (u *Unit) look(comps []string) (*content, error) {
	lock := u.store.lock(u, comps)
	lock.RLock()
	c, err := u.lookOnce(comps)
	lock.RUnlock()
	if c == nil || err == nil && c.body == nil {
		return c, err
	}
	lock.Lock()
	defer lock.Unlock()
	steps, err := u.recovery(c.dir)
	if err == nil && len(steps) > 0 {
		defer u.root.index.begin(u)()
		if err = u.recover(c.dir, steps); err == nil {
			u.stored(comps)
		}
	}
	c.close()
	if err != nil {
		return nil, err
	}
	c, err = u.lookOnce(comps)
	if err != nil && c != nil {
		c.close()
		c = nil
	}
	return c, err
}

// lookOnce is look without recovery. It returns content and error when there is a #content
// directory without an active version.
func (u *Unit) lookOnce(comps []string) (*content, error) {
	nd, err := u.node(comps)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotPreserved
	}
	if err != nil {
		return nil, misplaced(err)
	}
	defer nd.close()
	cd, err := nd.sub(contentDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotPreserved
	}
	if err != nil {
		return nil, misplaced(err)
	}
	if deleted(nd) {
		cd.close()
		return nil, ErrNotPreserved
	}
	c := &content{dir: cd}
	c.props, err = readProps(cd, currentProps)
	if shortage(err) {
		cd.close()
		return nil, err
	}
	if err != nil || versionOf(c.props) == 0 {
		// Properties that are missing, malformed or without number mean no content; the
		// reason is told by Check.
		return c, ErrNotPreserved
	}
	c.number = versionOf(c.props)
	st, err := cd.stat(current)
	switch {
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG:
		c.size = st.Size
	case err == nil, errors.Is(err, fs.ErrNotExist):
		c.body = &LayoutError{Path: cd.path(current), Hint: "the next repair or crawl stores it again", Err: ErrNoBody}
	default:
		c.body = err
	}
	return c, nil
}

// shortage says whether an error tells of this process and not of the disk: what could not be
// opened may be all right (repository.md 13).
func shortage(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
}

// misplaced explains a file, or a link, where a directory is expected.
func misplaced(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) && (errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)) {
		return &LayoutError{Path: pe.Path, Hint: "move it away, it belongs to no unit", Err: errors.New("not a directory, or a symbolic link")}
	}
	return err
}

// deleted says whether a node is marked so. A flag for an inactive node needs no look: file
// names tell that more reliably (repository.md 4.2).
func deleted(nd *dir) bool {
	b, err := nd.read(nodePropsFile, maxProps)
	if err != nil {
		return false
	}
	props, err := javaprops.Parse(b)
	return err == nil && props["node.isDeleted"] == "true"
}

// numbers lists the older versions in a content directory that have bytes, highest first.
func (d *dir) numbers() ([]int, error) {
	entries, err := d.entries()
	if err != nil {
		return nil, err
	}
	var all []int
	for _, e := range entries {
		if n := atoi(e.Name()); n > 0 && e.Type().IsRegular() {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	slices.Reverse(all)
	return all, nil
}

// Current returns the current version of a URL, or [ErrNotPreserved].
func (u *Unit) Current(url string) (*Version, error) {
	vs, err := u.Versions(url, 1)
	if err != nil {
		return nil, err
	}
	return vs[0], nil
}

// Versions returns up to max versions of a URL, newest first, all with max 0. Older versions
// without bytes are left out (repository.md 4.3). ErrNotPreserved: there is no current one.
func (u *Unit) Versions(url string, max int) ([]*Version, error) {
	comps, err := u.place(url)
	if err != nil {
		return nil, u.fail("open", url, err)
	}
	vs, err := u.versions(comps, max)
	if err != nil {
		return nil, u.fail("open", url, err)
	}
	return vs, nil
}

func (u *Unit) versions(comps []string, max int) ([]*Version, error) {
	c, err := u.look(comps)
	if err != nil {
		return nil, err
	}
	defer c.close()
	node, err := pathURL(comps)
	if err != nil {
		return nil, err
	}
	vs := []*Version{{
		URL: node, Number: c.number, Props: c.props, Size: c.size, Current: true, BodyErr: c.body,
		unit: u, comps: comps,
	}}
	if max == 1 {
		return vs, nil
	}
	numbers, err := c.numbers()
	if err != nil {
		return nil, err
	}
	for _, n := range numbers {
		if len(vs) == max {
			break
		}
		v := &Version{URL: node, Number: n, unit: u, comps: comps}
		name := fmt.Sprint(n)
		// Properties that are lost do not take the bytes with them.
		if v.Props, err = readProps(c.dir, name+".props"); err != nil {
			v.Props = map[string]string{keyVersion: name}
		}
		st, err := c.stat(name)
		if err != nil {
			return nil, err
		}
		v.Size = st.Size
		vs = append(vs, v)
	}
	return vs, nil
}

// Deactivate takes a URL out of service and polls, and keeps all its versions; storing it
// again revives it (repository.md 4.2).
func (u *Unit) Deactivate(url string) error {
	comps, err := u.place(url)
	if err == nil {
		err = u.deactivate(comps)
	}
	if err != nil {
		return u.fail("deactivate", url, err)
	}
	return nil
}

func (u *Unit) deactivate(comps []string) error {
	return u.change(comps, func(c *content) error {
		// Leftovers beside an active version are not overwritten.
		for _, name := range []string{inactive, inactiveProps} {
			if _, err := c.stat(name); err == nil {
				return &LayoutError{Path: c.path(name), Hint: "move it away, it stands beside a current version", Err: fs.ErrExist}
			} else if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if err := u.setNodeProps(comps, map[string]string{"node.content.isInactive": "true"}); err != nil {
			return err
		}
		if c.body == nil {
			if err := u.rename(c.dir, current, inactive); err != nil {
				return err
			}
		}
		return u.rename(c.dir, currentProps, inactiveProps)
	})
}

// change does something to the content of an active node, with its lock held, and makes it
// durable.
func (u *Unit) change(comps []string, do func(*content) error) error {
	c, err := u.look(comps) // recovers
	if err != nil {
		return err
	}
	c.close()
	lock := u.store.lock(u, comps)
	lock.Lock()
	defer lock.Unlock()
	c, err = u.lookOnce(comps)
	if c != nil {
		defer c.close()
	}
	if err != nil {
		return err
	}
	defer u.root.index.begin(u)()
	if err := do(c); err != nil {
		return err
	}
	if err := c.sync(); err != nil {
		return err
	}
	u.stored(comps)
	return nil
}

// AddChecksum records the checksum ("SHA-256:HEX") of a version that has none
// (repository.md 5). A version that has one is left alone, with an error.
func (u *Unit) AddChecksum(url string, number int, sum string) error {
	comps, err := u.place(url)
	if err == nil {
		err = u.addChecksum(comps, number, sum)
	}
	if err != nil {
		return u.fail("add checksum to", url, err)
	}
	return nil
}

func (u *Unit) addChecksum(comps []string, number int, sum string) error {
	return u.change(comps, func(c *content) error {
		name := currentProps
		if number != c.number {
			name = fmt.Sprint(number, ".props")
		}
		props, err := readProps(c.dir, name)
		if err != nil {
			return err
		}
		if old, ok := props[keyChecksum]; ok {
			return fmt.Errorf("version %d has already %s", number, old)
		}
		props[keyChecksum] = sum
		return u.rewriteProps(c.dir, comps, name, number, props)
	})
}

// rewriteProps replaces a property file at once; the caller syncs the directory.
func (u *Unit) rewriteProps(cd *dir, comps []string, name string, number int, props map[string]string) error {
	work := fmt.Sprint(tempProps, ".", number)
	if err := u.writeProps(cd, comps, work, props); err != nil {
		return errors.Join(err, cd.drop(work))
	}
	return u.rename(cd, work, name)
}

// writeProps writes the property file of a version, durable but for its name.
func (u *Unit) writeProps(cd *dir, comps []string, name string, props map[string]string) error {
	if err := u.crash("write " + name); err != nil {
		return err
	}
	node, err := pathURL(comps)
	if err != nil {
		return err
	}
	b := javaprops.Append(nil, []string{"HTTP headers for " + node, dateComment()}, props)
	if len(b) > maxProps {
		return fmt.Errorf("properties of %d bytes: the limit is %d", len(b), maxProps)
	}
	return cd.write(name, b, 0o644)
}

// rename is a step of storing.
func (u *Unit) rename(cd *dir, from, to string) error {
	if err := u.crash("rename " + from + " " + to); err != nil {
		return err
	}
	return cd.rename(from, to)
}

func (u *Unit) crash(op string) error {
	if u.store.crash != nil {
		return u.store.crash(op)
	}
	return nil
}

// invalidate marks the cached sizes of a node and of all above it as unknown, where there are
// any: a 1.x node trusts them (repository.md 7).
func (u *Unit) invalidate(comps []string) error {
	d, err := u.open()
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		err := editNodeProps(d, i == len(comps), nil)
		if err != nil || i == len(comps) {
			return errors.Join(err, d.close())
		}
		down, err := d.sub(comps[i])
		d.close()
		if err != nil {
			return err
		}
		d = down
	}
}

// setNodeProps sets flags of a node, beside invalidating the sizes.
func (u *Unit) setNodeProps(comps []string, flags map[string]string) error {
	if err := u.invalidate(comps); err != nil {
		return err
	}
	d, err := u.node(comps)
	if err != nil {
		return err
	}
	defer d.close()
	return editNodeProps(d, true, flags)
}

// editNodeProps marks the sizes in one #node_props as unknown. Of the node itself it removes
// the flags, or sets those given. A file that cannot be read is put aside.
func editNodeProps(d *dir, self bool, flags map[string]string) error {
	b, err := d.read(nodePropsFile, maxProps)
	if errors.Is(err, fs.ErrNotExist) && len(flags) == 0 {
		return nil
	}
	props := make(map[string]string)
	if err == nil {
		if props, err = javaprops.Parse(b); err != nil {
			if err := d.rename(nodePropsFile, nodePropsFile+".ERROR"); err != nil {
				return err
			}
			props = make(map[string]string)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	changed := false
	set := func(k, v string) {
		if props[k] != v {
			props[k], changed = v, true
		}
	}
	set("node.tree.size", "U")
	set("node.child.count", "U")
	if self {
		for _, k := range []string{"node.content.isInactive", "node.isDeleted"} {
			if v, ok := flags[k]; ok {
				set(k, v)
			} else if _, ok := props[k]; ok {
				delete(props, k)
				changed = true
			}
		}
	}
	if !changed {
		return nil
	}
	return d.replace(nodePropsFile, javaprops.Append(nil, []string{"Node properties", dateComment()}, props), 0o644)
}

// stored brings the index up to date with one node of the tree. The content is durable by
// then; an index that cannot follow is marked stale and rebuilt later.
func (u *Unit) stored(comps []string) {
	if err := u.root.index.update(u, comps); err != nil {
		u.store.log.Warn("index entry is stale until it is rebuilt", "au", u.id, "err", err)
	}
}

// hasContent says whether any URL is stored.
func (u *Unit) hasContent() bool {
	err := u.Walk(context.Background(), func(string) error { return errStop })
	return errors.Is(err, errStop)
}

var errStop = errors.New("stop")
