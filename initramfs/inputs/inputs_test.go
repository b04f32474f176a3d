package inputs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// shelf is an archive in memory: candidates by name, files by name and version.
type shelf struct {
	newest  map[string]Package
	depends map[string][]string
	files   map[string][]byte // "name version"
	asked   int
}

func (s *shelf) Candidate(_ context.Context, name string) (Package, []string, error) {
	p, ok := s.newest[name]
	if !ok {
		return Package{}, nil, ErrGone
	}
	return p, s.depends[name], nil
}

func (s *shelf) Download(_ context.Context, p Package, dir string) (string, error) {
	s.asked++
	b, ok := s.files[p.Name+" "+p.Version]
	if !ok {
		return "", ErrGone
	}
	name := filepath.Join(dir, p.Name+".deb")
	return name, os.WriteFile(name, b, 0o666)
}

// deb makes a real package with one file.
func deb(t *testing.T, name, version string) (Package, []byte) {
	t.Helper()
	dir := t.TempDir()
	check(t, os.MkdirAll(filepath.Join(dir, "d/DEBIAN"), 0o755))
	check(t, os.WriteFile(filepath.Join(dir, "d/DEBIAN/control"),
		fmt.Appendf(nil, "Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: a <a@example.org>\nDescription: a\n", name, version), 0o644))
	check(t, os.WriteFile(filepath.Join(dir, "d/version"), []byte(version), 0o644))
	c := exec.Command("dpkg-deb", "--root-owner-group", "-b", "d", "p.deb")
	c.Dir = dir
	c.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb: %v\n%s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "p.deb"))
	check(t, err)
	sum := sha256.Sum256(b)
	return Package{Name: name, Version: version, SHA256: hex.EncodeToString(sum[:])}, b
}

func world(t *testing.T) (*shelf, *Fetcher, *bytes.Buffer) {
	var say bytes.Buffer
	s := &shelf{newest: map[string]Package{}, depends: map[string][]string{}, files: map[string][]byte{}}
	return s, &Fetcher{Dir: filepath.Join(t.TempDir(), "inputs"), Archive: s, Say: &say}, &say
}

func lockOf(t *testing.T, text string) *Lock {
	t.Helper()
	name := filepath.Join(t.TempDir(), "inputs.lock")
	check(t, os.WriteFile(name, []byte(text), 0o666))
	l, err := ReadLock(name)
	check(t, err)
	return l
}

func TestFetch(t *testing.T) {
	s, f, say := world(t)
	p, b := deb(t, "tools", "1.0~a+b")
	s.files["tools 1.0~a+b"] = b
	l := lockOf(t, "# comment\n\n"+p.String()+" # why\n")
	r, err := f.Fetch(t.Context(), l)
	check(t, err)
	d, ok := r.Deb("tools")
	if !ok || !r.Locked || d.Built != 1700000000 {
		t.Errorf("%+v, locked %v", d, r.Locked)
	}
	if got, err := os.ReadFile(filepath.Join(d.Root, "version")); err != nil || string(got) != "1.0~a+b" {
		t.Errorf("unpacked: %q, %v", got, err)
	}
	if !strings.Contains(say.String(), "downloading tools") {
		t.Errorf("said %q", say)
	}
	// The second time nothing is asked of the archive.
	say.Reset()
	_, err = f.Fetch(t.Context(), l)
	check(t, err)
	if s.asked != 1 || say.Len() != 0 {
		t.Errorf("archive was asked %d times, said %q", s.asked, say)
	}
	// A spoiled file is fetched again.
	check(t, os.WriteFile(d.File, []byte("spoiled"), 0o666))
	_, err = f.Fetch(t.Context(), l)
	check(t, err)
	if s.asked != 2 {
		t.Errorf("archive was asked %d times", s.asked)
	}
	left, err := filepath.Glob(filepath.Join(f.Dir, "*"))
	if err != nil || len(left) != 2 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

func TestFetchOtherBytes(t *testing.T) {
	s, f, _ := world(t)
	p, b := deb(t, "tools", "1.0")
	s.files["tools 1.0"] = append(b, 0)
	f.Any = true
	if _, err := f.Fetch(t.Context(), lockOf(t, p.String())); err == nil || !strings.Contains(err.Error(), "not the locked") {
		t.Errorf("other bytes than locked: %v", err)
	}
}

func TestFetchGone(t *testing.T) {
	s, f, say := world(t)
	old, _ := deb(t, "linux-image-6.1-1", "6.1-1")
	old.Meta = "linux-image-now"
	now, b := deb(t, "linux-image-6.1-2", "6.1-2")
	s.newest["linux-image-now"] = Package{Name: "linux-image-now", Version: "2"}
	s.depends["linux-image-now"] = []string{"libc6", "linux-image-6.1-2"}
	s.newest["linux-image-6.1-2"] = now
	s.files["linux-image-6.1-2 6.1-2"] = b
	l := lockOf(t, "# kernel\n"+old.String()+"\n")

	_, err := f.Fetch(t.Context(), l)
	now.Meta = old.Meta
	for _, want := range []string{"inputs.lock:2", now.String(), "KERNEL=any"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want %q in it", err, want)
		}
	}

	f.Any = true
	r, err := f.Fetch(t.Context(), l)
	check(t, err)
	if d, ok := r.Deb("linux-image-now"); !ok || d.Name != "linux-image-6.1-2" || r.Locked {
		t.Errorf("%+v, locked %v", r.Debs, r.Locked)
	}
	if !strings.Contains(say.String(), "taking linux-image-6.1-2 6.1-2: this is no reproducible build") {
		t.Errorf("said %q", say)
	}

	// Written into the lock, it is what is locked; comments stay.
	got, err := f.Newest(t.Context(), l.Packages[0])
	check(t, err)
	check(t, l.Update([]Package{got}))
	text, err := os.ReadFile(l.Path)
	if err != nil || string(text) != "# kernel\n"+now.String()+"\n" {
		t.Errorf("lock is now %q, %v", text, err)
	}
	f.Any = false
	l, err = ReadLock(l.Path)
	check(t, err)
	if r, err = f.Fetch(t.Context(), l); err != nil || !r.Locked {
		t.Errorf("after the change: %v", err)
	}
}

func TestFetchNowhere(t *testing.T) {
	_, f, _ := world(t)
	f.Any = true
	l := lockOf(t, "tools 1 "+strings.Repeat("0", 64))
	if _, err := f.Fetch(t.Context(), l); err == nil || !strings.Contains(err.Error(), "inputs.lock:1") {
		t.Errorf("error is %v", err)
	}
	// A broken connection looks alike; there is nothing to change in the lock then.
	f.Archive.(*shelf).newest["tools"] = l.Packages[0]
	if _, err := f.Fetch(t.Context(), l); err == nil || !strings.Contains(err.Error(), "try again later") || strings.Contains(err.Error(), "change this line") {
		t.Errorf("error is %v", err)
	}
}

func TestReadLockRefuses(t *testing.T) {
	sum := strings.Repeat("a", 64)
	for _, c := range []struct{ name, text string }{
		{"two words", "a 1"},
		{"five words", "a 1 " + sum + " b c"},
		{"short sum", "a 1 aa"},
		{"twice", "a 1 " + sum + "\na 2 " + sum},
		{"option as name", "-o 1 " + sum},
		{"path as name", "../a 1 " + sum},
		{"path as version", "a 1/../../x " + sum},
		{"option as metapackage", "a 1 " + sum + " -x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "l")
			check(t, os.WriteFile(name, []byte(c.text), 0o666))
			if l, err := ReadLock(name); err == nil || !strings.Contains(err.Error(), "l:") {
				t.Errorf("got %+v, %v", l, err)
			}
		})
	}
}

// The lock of the project can be read and names what the image needs.
func TestProjectLock(t *testing.T) {
	l, err := ReadLock("../inputs.lock")
	check(t, err)
	kernels := 0
	for _, p := range l.Packages {
		if strings.HasPrefix(p.Name, "linux-image-") && p.Meta != "" {
			kernels++
		}
	}
	if kernels != 1 {
		t.Errorf("%d kernels with a metapackage, want 1", kernels)
	}
}
