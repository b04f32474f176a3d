package store

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
)

// A Version is one version of a URL, as it was when it was looked up.
type Version struct {
	URL     string            // node URL: normalised, without final slash
	Number  int               // from 1
	Props   map[string]string // keys in lower case (repository.md 4.1)
	Size    int64             // bytes stored
	Current bool
	BodyErr error // why it has no bytes (usually ErrNoBody in a LayoutError), or nil

	unit  *Unit
	comps []string
}

// Open opens the stored bytes. They are those of this version even when another has become
// current since; what is open stays readable whatever is stored.
func (v *Version) Open() (io.ReadCloser, error) {
	f, err := v.open()
	if err != nil {
		return nil, fmt.Errorf("open version %d of %s in %s: %w", v.Number, v.URL, v.unit.id, err)
	}
	return f, nil
}

func (v *Version) open() (io.ReadCloser, error) {
	if v.BodyErr != nil {
		return nil, v.BodyErr
	}
	lock := v.unit.store.lock(v.unit, v.comps)
	lock.RLock()
	defer lock.RUnlock()
	cd, err := v.unit.node(append(v.comps[:len(v.comps):len(v.comps)], contentDir))
	if err != nil {
		return nil, err
	}
	defer cd.close()
	name := strconv.Itoa(v.Number)
	if v.Current {
		if props, err := readProps(cd, currentProps); err == nil && versionOf(props) == v.Number {
			name = current
		}
	}
	f, err := cd.open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &LayoutError{Path: cd.path(name), Hint: "the next repair or crawl stores it again", Err: ErrNoBody}
	}
	return f, err
}

// OpenContent opens the bytes with their content encoding (gzip, deflate) undone. Bytes that
// are not encoded as their header says are given as they are: some versions of 1.x stored
// decoded bytes and kept the header (repository.md 4).
func (v *Version) OpenContent() (io.ReadCloser, error) {
	f, err := v.Open()
	if err != nil {
		return nil, err
	}
	var decode func(io.Reader) (io.Reader, error)
	switch strings.ToLower(strings.TrimSpace(v.Props["content-encoding"])) {
	case "gzip", "x-gzip":
		decode = func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }
	case "deflate":
		decode = func(r io.Reader) (io.Reader, error) { return zlib.NewReader(r) }
	default:
		return f, nil
	}
	// That the bytes decode at all shows at their beginning.
	var head [4 << 10]byte
	r, err := decode(f)
	if err == nil {
		var n int
		n, err = io.ReadFull(r, head[:])
		if err == nil || err == io.EOF || err == io.ErrUnexpectedEOF && wholeStream(r) {
			return joined{io.MultiReader(bytes.NewReader(head[:n]), r), f}, nil
		}
	}
	f.Close()
	return v.Open()
}

// wholeStream tells the good end of a short stream from one cut off, which ReadFull reports
// alike: a decoder repeats its error.
func wholeStream(r io.Reader) bool {
	_, err := r.Read(make([]byte, 1))
	return err == io.EOF
}

type joined struct {
	io.Reader
	io.Closer
}
