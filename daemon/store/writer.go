package store

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"armarium/daemon/lockss"
)

// A Writer takes the bytes of a new version of one URL. Nothing that is stored changes before
// [Writer.Seal]; every Writer ends with Seal or Abandon.
type Writer struct {
	unit   *Unit
	url    string // normalised, with a final slash if it had one
	comps  []string
	cd     *dir
	file   *os.File
	buf    *bufio.Writer
	sum    hash.Hash
	size   int64
	err    error // first error of Write
	closed bool
	fresh  bool // #content was made for this version
	stuck  bool // renamed halfway and back failed: temp* are needed to put it in order
}

// Sealed tells what storing a version came to.
type Sealed struct {
	Changed bool   // false: the bytes were those of the current version, only properties are new
	Version int    // number of the current version now
	NodeURL string // under which it is stored
}

// New begins a new version of url, as crawled. It fails with [ErrBusy] when another Writer
// for the same node is open.
func (u *Unit) New(url string) (*Writer, error) {
	w, err := u.newWriter(url)
	if err != nil {
		return nil, u.fail("store", url, err)
	}
	return w, nil
}

func (u *Unit) newWriter(url string) (_ *Writer, err error) {
	comps, err := u.place(url)
	if err != nil {
		return nil, err
	}
	w := &Writer{unit: u, comps: comps, sum: sha256.New()}
	if w.url, err = lockss.NormalizeURL(url); err != nil {
		return nil, err
	}
	key := strings.Join(comps, "/")
	u.mu.Lock()
	busy := u.writing[key]
	u.writing[key] = true
	u.mu.Unlock()
	if busy {
		return nil, ErrBusy
	}
	defer func() {
		if err != nil {
			w.release()
		}
	}()

	// What a crash left is put in order first: it may need the files that are written now.
	if c, err := u.look(comps); err == nil {
		c.close()
	} else if !errors.Is(err, ErrNotPreserved) {
		return nil, err
	}
	u.dirs.Lock()
	defer u.dirs.Unlock()
	nd, err := u.root.cache.makeAll(append([]string{u.name}, comps...))
	if err != nil {
		return nil, misplaced(err)
	}
	defer nd.close()
	if err := nd.mkdir(contentDir); err == nil {
		w.fresh = true
	} else if !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if w.cd, err = nd.sub(contentDir); err != nil {
		return nil, misplaced(err)
	}
	// Old properties must not come to describe new bytes.
	if err := w.cd.drop(tempProps); err != nil {
		return nil, err
	}
	if w.file, err = w.cd.create(temp, 0o644); err != nil {
		return nil, err
	}
	w.buf = bufio.NewWriterSize(w.file, 64<<10)
	return w, nil
}

// Write appends to the body.
func (w *Writer) Write(b []byte) (int, error) {
	if w.closed {
		return 0, fmt.Errorf("write %s: %w", w.url, fs.ErrClosed)
	}
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.buf.Write(b)
	w.sum.Write(b[:n])
	w.size += int64(n)
	if err != nil {
		w.err = w.unit.fail("store", w.url, err)
	}
	return n, w.err
}

// Size returns the number of bytes written so far.
func (w *Writer) Size() int64 { return w.size }

// Abandon gives the version up; what was stored before stays. After Seal it does nothing.
func (w *Writer) Abandon() {
	if w.closed {
		return
	}
	w.file.Close()
	if w.stuck || w.unit.crash("abandon") != nil {
		w.release()
		return
	}
	w.unit.dirs.Lock()
	defer w.unit.dirs.Unlock()
	err := errors.Join(w.cd.drop(temp), w.cd.drop(tempProps))
	if w.fresh && err == nil {
		// The directories above stay: they are no nodes with content.
		if nd, err := w.unit.node(w.comps); err == nil {
			nd.remove(contentDir, true)
			nd.close()
		}
	}
	if err != nil {
		w.unit.store.log.Warn("abandoned version", "au", w.unit.id, "url", w.url, "err", err)
	}
	w.release()
}

// release ends the Writer's hold on its node.
func (w *Writer) release() {
	w.closed = true
	if w.cd != nil {
		w.cd.close()
	}
	w.unit.mu.Lock()
	defer w.unit.mu.Unlock()
	delete(w.unit.writing, strings.Join(w.comps, "/"))
}

// Seal makes the written bytes, with these properties, the current version, and returns when
// that is durable (repository.md 5). Keys become lower case. It adds the version number, and
// where they are missing the URL, the time and the SHA-256 of the bytes; a checksum that is
// given and wrong is an error. When the bytes equal those of the current version only its
// properties are replaced. After an error nothing stored has changed, and the version is
// abandoned.
func (w *Writer) Seal(props map[string]string) (Sealed, error) {
	if w.closed {
		return Sealed{}, fmt.Errorf("store %s: %w", w.url, fs.ErrClosed)
	}
	sealed, err := w.seal(props)
	if err != nil {
		w.Abandon()
		if w.err != nil {
			return Sealed{}, w.err
		}
		return Sealed{}, w.unit.fail("store", w.url, err)
	}
	w.release()
	return sealed, nil
}

func (w *Writer) seal(given map[string]string) (Sealed, error) {
	u := w.unit
	if w.err != nil {
		return Sealed{}, w.err
	}
	if err := w.buf.Flush(); err != nil {
		return Sealed{}, err
	}
	if err := w.file.Sync(); err != nil {
		return Sealed{}, err
	}
	props := make(map[string]string, len(given)+4)
	for _, k := range slices.Sorted(maps.Keys(given)) {
		props[strings.ToLower(k)] = given[k]
	}
	delete(props, keyWasInactive)
	setDefault(props, keyNodeURL, w.url)
	setDefault(props, keyFetched, strconv.FormatInt(time.Now().UnixMilli(), 10))
	if err := w.checksum(props); err != nil {
		return Sealed{}, err
	}
	node, err := pathURL(w.comps)
	if err != nil {
		return Sealed{}, err
	}

	lock := u.store.lock(u, w.comps)
	lock.Lock()
	defer lock.Unlock()
	defer u.root.index.begin(u)()
	sealed, err := w.install(props)
	if err != nil {
		return Sealed{}, err
	}
	sealed.NodeURL = node
	w.file.Close()
	u.stored(w.comps)
	return sealed, nil
}

func setDefault(props map[string]string, key, value string) {
	if props[key] == "" {
		props[key] = value
	}
}

// checksum compares the checksum that the properties carry, or adds one.
func (w *Writer) checksum(props map[string]string) error {
	own := "SHA-256:" + strings.ToUpper(hex.EncodeToString(w.sum.Sum(nil)))
	want := props[keyChecksum]
	if want == "" {
		props[keyChecksum] = own
		return nil
	}
	alg, sum, ok := strings.Cut(want, ":")
	if !ok {
		return fmt.Errorf("%s %q is not ALGORITHM:HEX", keyChecksum, want)
	}
	got := own
	if !strings.HasPrefix(own, alg+":") {
		var err error
		if got, err = digestFile(w.cd, temp, want); err != nil {
			return fmt.Errorf("%s: %w", keyChecksum, err)
		}
	}
	want = alg + ":" + strings.ToUpper(sum)
	if got != want {
		return &ChecksumError{URL: w.url, Want: want, Got: got}
	}
	props[keyChecksum] = want
	return nil
}

// install puts temp in its place among the versions. The caller holds the node's lock.
func (w *Writer) install(props map[string]string) (Sealed, error) {
	u, cd := w.unit, w.cd
	entries, err := cd.entries()
	if err != nil {
		return Sealed{}, err
	}
	has := make(map[string]bool, len(entries))
	last := 0 // highest number of an older version
	for _, e := range entries {
		has[e.Name()] = true
		last = max(last, atoi(strings.TrimSuffix(e.Name(), ".props")))
	}

	// done are the renames to take back when a later one fails.
	var done [][2]string
	move := func(from, to string) error {
		if !has[from] {
			return nil
		}
		if has[to] {
			return cd.fail("rename to "+to, from, fs.ErrExist)
		}
		if err := u.rename(cd, from, to); err != nil {
			return err
		}
		has[from], has[to] = false, true
		done = append(done, [2]string{from, to})
		return nil
	}
	undo := func(err error) (Sealed, error) {
		for _, d := range slices.Backward(done) {
			if uerr := u.rename(cd, d[1], d[0]); uerr != nil {
				w.stuck = true // the next access to the node puts it in order
				return Sealed{}, errors.Join(err, uerr)
			}
		}
		return Sealed{}, err
	}

	if !has[currentProps] && has[inactiveProps] {
		if err := w.revive(has, move); err != nil {
			return undo(err)
		}
	}
	number := 0 // of the current version
	if has[currentProps] {
		old, err := readProps(cd, currentProps)
		if shortage(err) {
			return undo(err)
		}
		number = versionOf(old)
	}
	if has[current] && number > 0 {
		same, err := w.same()
		if err != nil {
			return undo(err)
		}
		if same {
			if err := w.replaceProps(props, number); err != nil {
				return undo(err)
			}
			return Sealed{Version: number}, nil
		}
	}

	// The number under which the present version is kept: its own unless a file has it
	// already, or it has none.
	old := max(number, last)
	if has[current] || has[currentProps] {
		if number <= last {
			old = last + 1
		}
	}
	next := old + 1
	props[keyVersion] = strconv.Itoa(next)
	if err := u.writeProps(cd, w.comps, tempProps, props); err != nil {
		return undo(err)
	}
	has[temp], has[tempProps] = true, true
	if err := u.invalidate(w.comps); err != nil {
		return undo(err)
	}
	for _, step := range [][2]string{
		{current, strconv.Itoa(old)}, {currentProps, strconv.Itoa(old) + ".props"},
		{temp, current}, {tempProps, currentProps},
	} {
		if err := move(step[0], step[1]); err != nil {
			return undo(err)
		}
	}
	if err := u.crash("sync"); err != nil {
		return Sealed{}, err
	}
	if err := cd.sync(); err != nil {
		return Sealed{}, err
	}
	return Sealed{Changed: true, Version: next}, nil
}

// revive makes an inactive version the current one, marked as such.
func (w *Writer) revive(has map[string]bool, move func(from, to string) error) error {
	props, err := readProps(w.cd, inactiveProps)
	if err == nil && props[keyWasInactive] != "true" {
		props[keyWasInactive] = "true"
		if err := w.unit.rewriteProps(w.cd, w.comps, inactiveProps, max(1, versionOf(props)), props); err != nil {
			return err
		}
	}
	if has[current] {
		// A body without properties beside an inactive version: kept, by number.
		last := 1
		for name := range has {
			last = max(last, atoi(name)+1, atoi(strings.TrimSuffix(name, ".props"))+1, versionOf(props)+1)
		}
		if err := move(current, strconv.Itoa(last)); err != nil {
			return err
		}
	}
	if err := move(inactive, current); err != nil {
		return err
	}
	return move(inactiveProps, currentProps)
}

// same says whether temp and current have the same bytes. A current version that cannot be
// read is not the same: it is kept as an older one.
func (w *Writer) same() (bool, error) {
	st, err := w.cd.stat(current)
	if err != nil {
		return false, err
	}
	if st.Size != w.size || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return false, nil
	}
	a, err := w.cd.open(temp)
	if err != nil {
		return false, err
	}
	defer a.Close()
	b, err := w.cd.open(current)
	if shortage(err) {
		return false, err
	}
	if err != nil {
		w.unit.store.log.Warn("current version cannot be read and is kept as an older one", "au", w.unit.id, "url", w.url, "err", err)
		return false, nil
	}
	defer b.Close()
	var x, y [32 << 10]byte
	for {
		n, err := io.ReadFull(a, x[:])
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return false, err
		}
		m, berr := io.ReadFull(b, y[:])
		if berr != nil && berr != io.EOF && berr != io.ErrUnexpectedEOF {
			w.unit.store.log.Warn("current version cannot be read and is kept as an older one", "au", w.unit.id, "url", w.url, "err", berr)
			return false, nil
		}
		if string(x[:n]) != string(y[:m]) {
			return false, nil
		}
		if n < len(x) {
			return true, nil
		}
	}
}

// replaceProps gives the current version new properties.
func (w *Writer) replaceProps(props map[string]string, number int) error {
	u, cd := w.unit, w.cd
	props[keyVersion] = strconv.Itoa(number)
	if err := u.writeProps(cd, w.comps, tempProps, props); err != nil {
		return err
	}
	if err := u.invalidate(w.comps); err != nil {
		return err
	}
	if u.store.cfg.KeepProps {
		st, err := cd.stat(currentProps)
		if err != nil {
			return err
		}
		ms := st.Mtim.Nano() / 1e6
		for {
			kept := fmt.Sprintf("%d.props-%d", number, ms)
			if _, err := cd.stat(kept); errors.Is(err, fs.ErrNotExist) {
				if err := cd.link(currentProps, kept); err != nil {
					return err
				}
				break
			} else if err != nil {
				return err
			}
			ms++
		}
	}
	if err := u.crash("remove temp"); err != nil {
		return err
	}
	if err := cd.remove(temp, false); err != nil {
		return err
	}
	if err := u.rename(cd, tempProps, currentProps); err != nil {
		return err
	}
	return cd.sync()
}
