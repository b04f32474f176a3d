package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// A ChecksumError says that bytes are not those whose checksum was recorded.
type ChecksumError struct {
	URL       string
	Want, Got string // "SHA-256:HEX"
}

func (e *ChecksumError) Error() string {
	return fmt.Sprintf("%s: bytes have checksum %s, not %s", e.URL, e.Got, e.Want)
}

// ErrNoChecksum says that a version carries no checksum to verify it against.
var ErrNoChecksum = errors.New("no checksum is recorded")

// A Problem is something that [Unit.Check] found.
type Problem struct {
	URL  string // node URL; "" when a directory stands for none
	Path string // of the directory, full
	Err  error  // *ChecksumError, ErrNoBody, ErrNoChecksum, *LayoutError, or an error of reading
}

// Verify reads the current version of a URL and compares it with its recorded checksum:
// *ChecksumError, or ErrNoChecksum when there is none to compare.
func (u *Unit) Verify(url string) error {
	v, err := u.Current(url)
	if err != nil {
		return err
	}
	f, err := v.Open()
	if err != nil {
		return err
	}
	defer f.Close()
	want := v.Props[keyChecksum]
	if want == "" {
		_, err := io.Copy(io.Discard, f) // at least it can be read
		return errors.Join(err, fmt.Errorf("verify %s in %s: %w", v.URL, u.id, ErrNoChecksum))
	}
	got, err := digest(f, want)
	if err != nil {
		return u.fail("verify", v.URL, err)
	}
	if !strings.EqualFold(got, want) {
		return &ChecksumError{URL: v.URL, Want: want, Got: got}
	}
	return nil
}

// Check verifies every current version, and tells fn, on the caller's goroutine, of each that
// is not as recorded, of nodes that crashes or damage left without a current version, and of
// directories that belong to no URL. Inactive and deleted nodes are no problem. The error is
// that of ctx or of reading a directory.
func (u *Unit) Check(ctx context.Context, fn func(Problem)) error {
	return u.walk(ctx, func(url string, comps []string) error {
		err := u.Verify(url)
		if errors.Is(err, ErrNotPreserved) {
			err = u.whyNot(comps)
		}
		if err != nil {
			fn(Problem{URL: url, Path: u.path(comps), Err: err})
		}
		return nil
	}, func(e *LayoutError) {
		fn(Problem{Path: e.Path, Err: e})
	})
}

// whyNot explains a #content directory without current version; nil when it is meant so.
func (u *Unit) whyNot(comps []string) error {
	nd, err := u.node(comps)
	if err != nil {
		return err
	}
	defer nd.close()
	if deleted(nd) {
		return nil
	}
	cd, err := nd.sub(contentDir)
	if err != nil {
		return misplaced(err)
	}
	defer cd.close()
	entries, err := cd.entries()
	if err != nil {
		return err
	}
	has := make(map[string]bool, len(entries))
	for _, e := range entries {
		has[e.Name()] = true
	}
	delete(has, temp)
	delete(has, tempProps)
	if len(has) == 0 || has[inactive] || has[inactiveProps] {
		return nil
	}
	if has[currentProps] {
		_, err := readProps(cd, currentProps)
		if err == nil {
			err = errors.New("no valid " + keyVersion)
		}
		return &LayoutError{Path: cd.path(currentProps), Hint: "the next repair or crawl stores it again; the bytes are kept", Err: err}
	}
	return &LayoutError{Path: cd.path(currentProps), Hint: "the next repair or crawl stores it again; the bytes are kept", Err: errors.New("properties are missing")}
}
