package store

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"armarium/daemon/javaprops"
	"armarium/daemon/lockss"
)

const testAU = lockss.AUID("org|example|press|PressPlugin&base_url~http%3A%2F%2Fpress%2Eexample%2F")

func openStore(t testing.TB, roots ...string) *Store {
	t.Helper()
	s, err := Open(Config{Roots: roots})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func newUnitIn(t testing.TB, root string) *Unit {
	t.Helper()
	u, err := openStore(t, root).Create(testAU, "")
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func put(t testing.TB, u *Unit, url, body string, props map[string]string) Sealed {
	t.Helper()
	sealed, err := tryPut(u, url, body, props)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func tryPut(u *Unit, url, body string, props map[string]string) (Sealed, error) {
	w, err := u.New(url)
	if err != nil {
		return Sealed{}, err
	}
	if _, err := io.WriteString(w, body); err != nil {
		w.Abandon()
		return Sealed{}, err
	}
	return w.Seal(props)
}

// body reads one version.
func body(t testing.TB, v *Version) string {
	t.Helper()
	f, err := v.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// history is "number:body" of each version, newest first, or the error.
func history(t testing.TB, u *Unit, url string) string {
	t.Helper()
	vs, err := u.Versions(url, 0)
	if errors.Is(err, ErrNotPreserved) {
		return "not preserved"
	}
	if err != nil {
		t.Fatal(err)
	}
	var parts []string
	for _, v := range vs {
		text := "missing"
		if v.BodyErr == nil {
			text = body(t, v)
		}
		parts = append(parts, fmt.Sprint(v.Number, ":", text))
	}
	return strings.Join(parts, " ")
}

func walk(t testing.TB, u *Unit) []string {
	t.Helper()
	var urls []string
	if err := u.Walk(context.Background(), func(url string) error { urls = append(urls, url); return nil }); err != nil {
		t.Fatal(err)
	}
	return urls
}

// problems are the URLs and errors of Check.
func problems(t testing.TB, u *Unit) []string {
	t.Helper()
	var all []string
	if err := u.Check(context.Background(), func(p Problem) { all = append(all, fmt.Sprint(p.URL, " ", p.Err)) }); err != nil {
		t.Fatal(err)
	}
	return all
}

// indexAgrees compares the index of a unit with its tree.
func indexAgrees(t testing.TB, u *Unit) {
	t.Helper()
	items, err := u.List("", 10000)
	if err != nil {
		t.Fatal(err)
	}
	var urls []string
	var want UnitSummary
	for _, it := range items {
		urls = append(urls, it.URL)
		vs, err := u.Versions(it.URL, 0)
		if err != nil {
			t.Errorf("index has %s: %v", it.URL, err)
			continue
		}
		size := vs[0].Size
		if vs[0].BodyErr != nil {
			size = -1
		}
		if tree := (Item{it.URL, vs[0].Number, size, vs[0].Props[keyChecksum], len(vs)}); it != tree {
			t.Errorf("index has %+v, tree has %+v", it, tree)
		}
		want.URLs++
		want.Bytes += max(size, 0)
		want.Versions += len(vs)
	}
	if tree := walk(t, u); !slices.Equal(urls, tree) {
		t.Errorf("index lists %q, tree has %q", urls, tree)
	}
	if got, err := u.Summary(); err != nil || got != want {
		t.Errorf("summary %+v, %v, want %+v", got, err, want)
	}
}

func TestNodeLifecycle(t *testing.T) {
	type file struct {
		Content    *string
		Properties map[string]string
		Comments   []string
	}
	var vectors struct {
		Steps []struct {
			Step  string
			Files map[string]file
		}
	}
	b, err := os.ReadFile("testdata/node-lifecycle.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &vectors); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, t.TempDir())
	u, err := s.Create("org|lockss|plugin|simulated|SimulatedPlugin&root~%2Fsim", "")
	if err != nil {
		t.Fatal(err)
	}
	const url = "http://www.example.com/dir/file.txt"
	const node = "www.example.com/http/dir/file.txt/#content/"
	before := map[string]file{}
	for _, step := range vectors.Steps {
		// The properties to store are those of the version that the step makes, without what
		// storing adds.
		store := func(url, body string) {
			comps, _ := nodePath(url)
			props := maps.Clone(step.Files[strings.Join(comps, "/")+"/#content/current.props"].Properties)
			delete(props, keyVersion)
			put(t, u, url, body, props)
		}
		switch step.Step {
		case "one version", "same bytes, new headers":
			store(url, "first\n")
		case "second version":
			store(url, "second\n")
		case "directory with content":
			store("http://www.example.com/dir/", "index\n")
		case "after size calculation": // what 1.x computes, we only invalidate
			for name, f := range step.Files {
				if _, ok := before[name]; !ok {
					if err := os.WriteFile(filepath.Join(u.Dir(), name), javaprops.Append(nil, f.Comments[:1], f.Properties), 0o644); err != nil {
						t.Fatal(err)
					}
				}
			}
		case "deactivated":
			if err := u.Deactivate(url); err != nil {
				t.Fatal(err)
			}
			if got := history(t, u, url); got != "not preserved" {
				t.Errorf("inactive URL: %s", got)
			}
			if got := walk(t, u); !slices.Equal(got, []string{"http://www.example.com/dir"}) {
				t.Errorf("walk with inactive URL: %q", got)
			}
		case "deleted": // leaves no trace on disk
		case "stored again after deletion":
			store(url, "third\n")
		case "checksum added":
			// Ours has one already, by storing; the vector adds it to a version without.
			v, err := u.Current(url)
			if err != nil {
				t.Fatal(err)
			}
			if err := u.AddChecksum(url, v.Number, "SHA-1:00FF"); err == nil {
				t.Error("a second checksum was added")
			}
			delete(v.Props, keyChecksum)
			bare := javaprops.Append(nil, nil, v.Props)
			if err := os.WriteFile(filepath.Join(u.Dir(), node, "current.props"), bare, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := u.AddChecksum(url, v.Number, "SHA-1:00FF"); err != nil {
				t.Fatal(err)
			}
		default:
			t.Fatalf("step %q is unknown", step.Step)
		}
		before = step.Files

		got := map[string]bool{}
		err := filepath.WalkDir(u.Dir(), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			name, _ := filepath.Rel(u.Dir(), path)
			got[name] = true
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			want, ok := step.Files[name]
			if !ok {
				t.Errorf("%s: %s is there, but not in 1.x", step.Step, name)
				return nil
			}
			if want.Content != nil {
				if string(b) != *want.Content {
					t.Errorf("%s: %s holds %q, want %q", step.Step, name, b, *want.Content)
				}
				return nil
			}
			props, err := javaprops.Parse(b)
			if err != nil {
				return err
			}
			if want.Properties[keyChecksum] == "" {
				delete(props, keyChecksum)
			}
			if !maps.Equal(props, want.Properties) {
				t.Errorf("%s: %s holds %q, want %q", step.Step, name, props, want.Properties)
			}
			if first, _, _ := strings.Cut(string(b), "\n"); first != want.Comments[0] && step.Step != "after size calculation" && !strings.HasPrefix(first, "##") {
				t.Errorf("%s: %s begins %q, want %q", step.Step, name, first, want.Comments[0])
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for name := range step.Files {
			if !got[name] {
				t.Errorf("%s: %s is missing", step.Step, name)
			}
		}
	}
	if got, want := history(t, u, url), "3:third\n 2:second\n 1:first\n"; got != want {
		t.Errorf("versions %q, want %q", got, want)
	}
	indexAgrees(t, u)
}

// untar unpacks a cache of a 1.x node and returns the directory.
func untar(t testing.TB, name string) string {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return to
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(to, filepath.FromSlash(h.Name))
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, 0o755)
		case tar.TypeReg:
			var b []byte
			if err = os.MkdirAll(filepath.Dir(path), 0o755); err == nil {
				if b, err = io.ReadAll(r); err == nil {
					err = os.WriteFile(path, b, fs.FileMode(h.Mode))
				}
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// hashReport reads "SHA1   URL" lines of a 1.x node's own hash report, in its order.
func hashReport(t *testing.T) (urls []string, sums map[string]string) {
	t.Helper()
	f, err := os.Open("testdata/v3tree-sha1-hex-nononce.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sums = map[string]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if sum, url, ok := strings.Cut(lines.Text(), "   "); ok {
			urls = append(urls, url)
			sums[url] = sum
		}
	}
	return urls, sums
}

// The caches that a 1.x node wrote are read as that node reads them: same URLs in the same
// order, same bytes.
func TestCache1x(t *testing.T) {
	const au = lockss.AUID("org|example|press|ExamplePressPlugin&base_url~http%3A%2F%2Fpress%2Eexample%2F&volume_name~v1")
	urls, sums := hashReport(t)
	if len(urls) != 72 {
		t.Fatalf("report has %d URLs, want 72", len(urls))
	}
	older := map[string]map[string]string{
		"node1-before": {},
		"node1-after-repair": { // README.md of the caches, "after repair"
			"http://press.example/v1/issue1/art03.html": "2 1",
			"http://press.example/v1/issue2/fig03.png":  "2", // 1.props without body
		},
	}
	for name, versions := range older {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, filepath.Join(untar(t, name), "disk"))
			u, err := s.Unit(au)
			if err != nil {
				t.Fatal(err)
			}
			if got := walk(t, u); !slices.Equal(got, urls) {
				t.Errorf("walk gives %q, want %q", got, urls)
			}
			for _, url := range urls {
				vs, err := u.Versions(url, 0)
				if err != nil {
					t.Fatal(err)
				}
				sum := sha1.Sum([]byte(body(t, vs[0])))
				if got := strings.ToUpper(hex.EncodeToString(sum[:])); got != sums[url] {
					t.Errorf("%s has SHA-1 %s, want %s", url, got, sums[url])
				}
				var numbers []string
				for _, v := range vs {
					numbers = append(numbers, fmt.Sprint(v.Number))
				}
				want := versions[url]
				if want == "" {
					want = "1"
				}
				if got := strings.Join(numbers, " "); got != want {
					t.Errorf("%s has versions %s, want %s", url, got, want)
				}
			}
			sum, err := u.Summary()
			// 116,641 bytes: README.md of the captures.
			if want := 72 + len(versions) - len(versions)/2; err != nil || sum.URLs != 72 || sum.Bytes != 116641 || sum.Versions != want {
				t.Errorf("summary %+v, %v, want 72 URLs, 116641 bytes, %d versions", sum, err, want)
			}
			indexAgrees(t, u)
			for _, p := range problems(t, u) {
				if !strings.HasSuffix(p, ErrNoChecksum.Error()) {
					t.Errorf("problem: %s", p)
				}
			}

			// It goes on in the same place, and the cached sizes do not stay.
			const url = "http://press.example/v1/issue1/"
			if got := put(t, u, url, "new index", nil); got != (Sealed{true, 2, "http://press.example/v1/issue1"}) {
				t.Errorf("sealed %+v", got)
			}
			for _, dir := range []string{"", "press.example/http", "press.example/http/v1", "press.example/http/v1/issue1"} {
				b, err := os.ReadFile(filepath.Join(u.Dir(), dir, nodePropsFile))
				if err != nil {
					t.Fatal(err)
				}
				props, err := javaprops.Parse(b)
				if err != nil || props["node.tree.size"] != "U" || props["node.child.count"] != "U" {
					t.Errorf("%s/%s holds %q after a change below", dir, nodePropsFile, b)
				}
				if dir == "" && props["node.du.size"] == "" {
					t.Errorf("%s lost node.du.size", nodePropsFile)
				}
			}
			indexAgrees(t, u)
		})
	}
	t.Run("node4-url-with-two-crawled-versions", func(t *testing.T) {
		root := t.TempDir()
		s := openStore(t, root)
		u, err := s.Create(au, "")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(u.Dir(), os.DirFS(untar(t, "node4-url-with-two-crawled-versions"))); err != nil {
			t.Fatal(err)
		}
		if got := history(t, u, "http://press.example/v1/one-byte.txt"); got != "2:yz 1:x" {
			t.Errorf("versions %q, want 2:yz 1:x", got)
		}
	})
}

func TestSeal(t *testing.T) {
	u := newUnitIn(t, t.TempDir())
	const url = "http://press.example/a/"
	got := put(t, u, url, "one", map[string]string{"Content-Type": "text/plain"})
	if got != (Sealed{true, 1, "http://press.example/a"}) {
		t.Errorf("first: %+v", got)
	}
	v, err := u.Current("http://press.example/a")
	if err != nil {
		t.Fatal(err)
	}
	const sum = "SHA-256:7692C3AD3540BB803C020B3AEE66CD8887123234EA0C6E7143C0ADD73FF431ED" // of "one"
	if v.Props[keyNodeURL] != url || v.Props["content-type"] != "text/plain" || v.Props[keyChecksum] != sum || v.Props[keyFetched] == "" || v.Size != 3 {
		t.Errorf("first: properties %q, size %d", v.Props, v.Size)
	}
	if got := put(t, u, url, "one", map[string]string{"etag": "x"}); got != (Sealed{false, 1, "http://press.example/a"}) {
		t.Errorf("same bytes: %+v", got)
	}
	if again, err := u.Current(url); err != nil || again.Props["etag"] != "x" || again.Props["content-type"] != "" {
		t.Errorf("same bytes: %+v, %v", again, err)
	}
	put(t, u, url, "two", nil)
	if got := body(t, v); got != "one" {
		t.Errorf("the version looked up before has become %q", got)
	}

	// A checksum that comes along is compared, whatever its algorithm.
	for _, c := range []struct{ sum, want string }{
		{"SHA-1:B802F384302CB24FBAB0A44997E820BF2E8507BB", ""}, // of "three"
		{"SHA-1:b802f384302cb24fbab0a44997e820bf2e8507bb", ""},
		{"SHA-1:0000", "checksum"},
		{"SHA-256:0000", "checksum"},
		{"CRC:0000", "CRC"},
		{"0000", "ALGORITHM:HEX"},
	} {
		_, err := tryPut(u, url, "three", map[string]string{keyChecksum: c.sum})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("seal with %s: %v", c.sum, err)
		}
	}
	if got := history(t, u, url); got != "3:three 2:two 1:one" {
		t.Errorf("versions %s", got)
	}

	w, err := u.New("http://press.example/b")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.New("http://press.example/b/"); !errors.Is(err, ErrBusy) {
		t.Errorf("second writer: %v, want ErrBusy", err)
	}
	w.Abandon()
	if _, err := w.Write([]byte("x")); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("write after Abandon: %v", err)
	}
	if _, err := w.Seal(nil); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("seal after Abandon: %v", err)
	}
	if got := history(t, u, "http://press.example/b"); got != "not preserved" {
		t.Errorf("abandoned: %s", got)
	}
	if got := walk(t, u); !slices.Equal(got, []string{"http://press.example/a"}) {
		t.Errorf("walk %q", got)
	}
	if got := problems(t, u); got != nil {
		t.Errorf("problems %q", got)
	}
	// Properties that could not be read again would hide the bytes.
	if _, err := tryPut(u, url, "four", map[string]string{"x": strings.Repeat("é", maxProps/6)}); err == nil {
		t.Error("properties beyond the limit are stored")
	}
	if got := history(t, u, url); got != "3:three 2:two 1:one" {
		t.Errorf("versions %s", got)
	}
	// What lies in the way of deactivation is not overwritten.
	lost := filepath.Join(u.Dir(), "press.example/http/a", contentDir, inactive)
	if err := os.WriteFile(lost, []byte("lost"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := u.Deactivate(url); !errors.Is(err, fs.ErrExist) {
		t.Errorf("deactivate over %s: %v", lost, err)
	}
	if err := os.Remove(lost); err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{"http://press.example/..", "http:///x", "mailto:a@b", "", "http://press.example/\xff"} {
		if _, err := u.New(url); err == nil {
			t.Errorf("New(%q) succeeds", url)
		}
	}
	indexAgrees(t, u)
}

func TestKeepProps(t *testing.T) {
	s, err := Open(Config{Roots: []string{t.TempDir()}, KeepProps: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	u, err := s.Create(testAU, "")
	if err != nil {
		t.Fatal(err)
	}
	const url = "http://press.example/a"
	for _, etag := range []string{"1", "2", "3"} {
		put(t, u, url, "same", map[string]string{"etag": etag})
	}
	kept, err := filepath.Glob(filepath.Join(u.Dir(), "press.example/http/a/#content/1.props-*"))
	if err != nil || len(kept) != 2 {
		t.Errorf("kept %q, %v, want two", kept, err)
	}
	if got := history(t, u, url); got != "1:same" {
		t.Errorf("versions %s", got)
	}
}

// A version whose body is gone is still reported, and stored over with the next number.
func TestBodyMissing(t *testing.T) {
	u := newUnitIn(t, t.TempDir())
	const url = "http://press.example/fig.png"
	put(t, u, url, "good", nil)
	content := filepath.Join(u.Dir(), "press.example/http/fig.png/#content")
	if err := os.Remove(filepath.Join(content, current)); err != nil {
		t.Fatal(err)
	}
	if got := walk(t, u); !slices.Equal(got, []string{url}) {
		t.Errorf("walk %q, want the URL", got)
	}
	v, err := u.Current(url)
	if err != nil {
		t.Fatal(err)
	}
	if !errors.Is(v.BodyErr, ErrNoBody) {
		t.Errorf("BodyErr %v, want ErrNoBody", v.BodyErr)
	}
	if _, err := v.Open(); !errors.Is(err, ErrNoBody) {
		t.Errorf("Open: %v, want ErrNoBody", err)
	}
	if err := u.Verify(url); !errors.Is(err, ErrNoBody) {
		t.Errorf("Verify: %v, want ErrNoBody", err)
	}
	if got := put(t, u, url, "good", nil); got != (Sealed{true, 2, url}) {
		t.Errorf("repair: %+v", got)
	}
	if got := history(t, u, url); got != "2:good" {
		t.Errorf("versions %s", got)
	}
	if _, err := os.Stat(filepath.Join(content, "1.props")); err != nil {
		t.Errorf("properties of the lost version: %v", err)
	}
	indexAgrees(t, u)
}

// A damaged version is told apart by its checksum, and kept when a repair is stored over it.
func TestDamaged(t *testing.T) {
	u := newUnitIn(t, t.TempDir())
	const url = "http://press.example/art.html"
	put(t, u, url, "good", nil)
	if err := os.WriteFile(filepath.Join(u.Dir(), "press.example/http/art.html/#content/current"), []byte("evil"), 0o644); err != nil {
		t.Fatal(err)
	}
	var sumErr *ChecksumError
	if err := u.Verify(url); !errors.As(err, &sumErr) {
		t.Errorf("Verify: %v, want *ChecksumError", err)
	}
	if got := problems(t, u); len(got) != 1 {
		t.Errorf("problems %q, want one", got)
	}
	put(t, u, url, "good", nil)
	if got := history(t, u, url); got != "2:good 1:evil" {
		t.Errorf("versions %s", got)
	}
	if got := problems(t, u); got != nil {
		t.Errorf("problems %q", got)
	}
}

// States of #content that neither storing nor crashes of ours make, but disks have.
func TestOddContent(t *testing.T) {
	const url = "http://press.example/x"
	props := func(n int) string { return fmt.Sprintf("%s=%d\n", keyVersion, n) }
	for _, c := range []struct {
		name  string
		files map[string]string
		flags string
		want  string // as found
		after string // when "new" has been stored
	}{
		{name: "inactive", files: map[string]string{inactive: "a", inactiveProps: props(3)}, want: "not preserved", after: "4:new 3:a"},
		{name: "inactive without body", files: map[string]string{inactiveProps: props(1)}, want: "not preserved", after: "2:new"},
		{name: "flag inactive, but active by name", files: map[string]string{current: "a", currentProps: props(1)}, flags: "node.content.isInactive=true", want: "1:a", after: "2:new 1:a"},
		{name: "deleted", files: map[string]string{current: "a", currentProps: props(1)}, flags: "node.isDeleted=true", want: "not preserved", after: "2:new 1:a"},
		{name: "no properties", files: map[string]string{current: "a"}, want: "not preserved", after: "2:new 1:a"},
		{name: "no properties, older one", files: map[string]string{current: "a", "1": "b", "1.props": props(1)}, want: "not preserved", after: "3:new 2:a 1:b"},
		{name: "no number", files: map[string]string{current: "a", currentProps: "x=y\n"}, want: "not preserved", after: "2:new 1:a"},
		{name: "broken properties", files: map[string]string{current: "a", currentProps: "x=\\u12"}, want: "not preserved", after: "2:new 1:a"},
		{name: "number in use", files: map[string]string{current: "a", currentProps: props(1), "1": "b", "1.props": props(1)}, want: "1:a 1:b", after: "3:new 2:a 1:b"},
		{name: "older with higher number", files: map[string]string{current: "a", currentProps: props(1), "7": "b", "7.props": props(7)}, want: "1:a 7:b", after: "9:new 8:a 7:b"},
		{name: "only temp", files: map[string]string{temp: "a", tempProps: props(1)}, want: "not preserved", after: "1:new"},
		{name: "old without current", files: map[string]string{"1": "a", "1.props": props(1)}, want: "1:a", after: "2:new 1:a"},
		{name: "old without current, temp cut", files: map[string]string{"1": "a", "1.props": props(1), temp: "b", tempProps: props(2) + "content-length=5\n"}, want: "1:a", after: "2:new 1:a"},
		{name: "old without current, temp whole", files: map[string]string{"1": "a", "1.props": props(1), temp: "b", tempProps: props(2) + "content-length=1\n"}, want: "2:b 1:a", after: "3:new 2:b 1:a"},
		{name: "old without current, temp of other bytes", files: map[string]string{"1": "a", "1.props": props(1), temp: "b", tempProps: props(2) + "x-lockss-checksum=MD5:00\n"}, want: "1:a", after: "2:new 1:a"},
		{name: "old without current, temp with checksum", files: map[string]string{"1": "a", "1.props": props(1), temp: "b", tempProps: props(2) + "x-lockss-checksum=MD5:92EB5FFEE6AE2FEC3AD71C777531578F\n"}, want: "2:b 1:a", after: "3:new 2:b 1:a"},
		{name: "old without current, temp of no number", files: map[string]string{"1": "a", "1.props": props(1), temp: "b", tempProps: "content-length=1\n"}, want: "1:a", after: "2:new 1:a"},
		{name: "properties of other bytes", files: map[string]string{"1": "a", "1.props": props(1), current: "b", tempProps: props(2) + "x-lockss-checksum=MD5:00\n"}, want: "not preserved", after: "3:new 2:b 1:a"},
		{name: "old without current, properties not moved", files: map[string]string{"1": "a", currentProps: props(1), temp: "b", tempProps: props(2) + "content-length=1\n"}, want: "2:b 1:a", after: "3:new 2:b 1:a"},
		{name: "properties to be moved", files: map[string]string{"1": "a", "1.props": props(1), current: "b", tempProps: props(2)}, want: "2:b 1:a", after: "3:new 2:b 1:a"},
		{name: "half deactivated", files: map[string]string{inactive: "a", currentProps: props(2)}, want: "2:a", after: "3:new 2:a"},
		{name: "half deactivated, other bytes", files: map[string]string{inactive: "a", currentProps: props(2) + "x-lockss-checksum=MD5:00\n"}, want: "2:missing", after: "3:new"},
		{name: "half revived", files: map[string]string{current: "a", inactiveProps: props(2)}, want: "2:a", after: "3:new 2:a"},
		{name: "kept properties", files: map[string]string{current: "a", currentProps: props(2), "2.props-1352196000000": props(2), "1": "b", "1.props": props(1)}, want: "2:a 1:b", after: "3:new 2:a 1:b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := newUnitIn(t, t.TempDir())
			node := filepath.Join(u.Dir(), "press.example/http/x")
			if err := os.MkdirAll(filepath.Join(node, contentDir), 0o755); err != nil {
				t.Fatal(err)
			}
			for name, text := range c.files {
				if err := os.WriteFile(filepath.Join(node, contentDir, name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if c.flags != "" {
				if err := os.WriteFile(filepath.Join(node, nodePropsFile), []byte(c.flags), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got := history(t, u, url); got != c.want {
				t.Errorf("found %q, want %q", got, c.want)
			}
			if got := len(walk(t, u)); got != 1 && c.want != "not preserved" || got != 0 && c.want == "not preserved" {
				t.Errorf("walk finds %d URLs, Versions %q", got, c.want)
			}
			put(t, u, url, "new", nil)
			if got := history(t, u, url); got != c.after {
				t.Errorf("stored over %q, want %q", got, c.after)
			}
		})
	}
}

func TestAllocation(t *testing.T) {
	root := t.TempDir()
	cache := filepath.Join(root, "cache")
	for _, name := range []string{"b", "d"} {
		if err := os.MkdirAll(filepath.Join(cache, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := openStore(t, root)
	if got := len(s.Faults()); got != 2 {
		t.Errorf("%d faults, want one for each directory without id", got)
	}
	var names []string
	for i := range 4 {
		u, err := s.Create(lockss.AUID(fmt.Sprint("plugin&x~", i)), "")
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, filepath.Base(u.Dir()))
	}
	if got := strings.Join(names, " "); got != "a c e f" {
		t.Errorf("names %s, want a c e f", got)
	}
	text, err := os.ReadFile(filepath.Join(cache, "a", unitIDFile))
	if err != nil || !strings.HasPrefix(string(text), "#ArchivalUnit id info\n#") || !strings.HasSuffix(string(text), "\nau.id=plugin&x~0\n") {
		t.Errorf("%s holds %q, %v", unitIDFile, text, err)
	}
	if info, err := os.Stat(filepath.Join(cache, "a", unitIDFile)); err != nil || info.Mode() != 0o444 {
		t.Errorf("%s has mode %v, %v", unitIDFile, info.Mode(), err)
	}
	again, err := s.Create("plugin&x~1", "")
	if err != nil || filepath.Base(again.Dir()) != "c" {
		t.Errorf("existing unit: %v, %v", again, err)
	}
	// Names freed in this run are not given out again before a restart.
	if err := os.RemoveAll(filepath.Join(cache, "b")); err != nil {
		t.Fatal(err)
	}
	if u, err := s.Create("plugin&x~9", "local:"+root); err != nil || filepath.Base(u.Dir()) != "g" {
		t.Errorf("next unit: %v, %v, want g", u, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, root)
	if u, err := s.Create("plugin&x~10", root+"/"); err != nil || filepath.Base(u.Dir()) != "b" {
		t.Errorf("after a restart: %v, %v, want b", u, err)
	}
	if _, err := s.Create("plugin&x~11", "/nowhere"); err == nil {
		t.Error("unit made on a disk that is not ours")
	}
	if _, err := s.Unit("plugin&none"); !errors.Is(err, ErrNoUnit) {
		t.Errorf("unknown unit: %v", err)
	}
	if got := len(s.Units()); got != 6 {
		t.Errorf("%d units, want 6", got)
	}
}

func TestSeveralDisks(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	for _, root := range []string{one, two} {
		s := openStore(t, root)
		u, err := s.Create(testAU, "")
		if err != nil {
			t.Fatal(err)
		}
		if root == two {
			put(t, u, "http://press.example/x", "x", nil)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s := openStore(t, one, filepath.Join(one, "missing", "disk"), two)
	u, err := s.Unit(testAU)
	if err != nil || u.Root() != two {
		t.Errorf("unit is on %v, %v, want the disk with content", u, err)
	}
	roots := s.Roots()
	if len(roots) != 3 || roots[0].Err != nil || roots[1].Err == nil || roots[2].Err != nil || roots[0].Total == 0 || roots[0].Free == 0 {
		t.Errorf("roots %+v", roots)
	}
	if u, err = s.Create(testAU, one); err != nil || u.Root() != one {
		t.Errorf("unit asked for on %s is %v, %v", one, u, err)
	}
	if u, err = s.Unit(testAU); err != nil || u.Root() != one {
		t.Errorf("unit is %v, %v, want the one configured", u, err)
	}
	if len(s.Faults()) != 1 {
		t.Errorf("faults %v, want one for the second directory", s.Faults())
	}
	if _, err := Open(Config{Roots: []string{two}}); err == nil || !strings.Contains(err.Error(), "another node") {
		t.Errorf("disk opened twice: %v", err)
	}
}

func TestStateFiles(t *testing.T) {
	u := newUnitIn(t, t.TempDir())
	if _, err := u.ReadState("#au_state.xml"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	for _, text := range []string{"<a/>", strings.Repeat("x", 1<<16), ""} {
		if err := u.WriteState("#au_state.xml", []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := u.ReadState("#au_state.xml"); err != nil || string(got) != text {
			t.Errorf("read %d bytes, %v, want %d", len(got), err, len(text))
		}
	}
	// The files of 1.x, by their names, byte for byte, also in a unit with content.
	var vectors struct{ XML map[string]string }
	b, err := os.ReadFile("testdata/state-files.json")
	must(t, err)
	must(t, json.Unmarshal(b, &vectors))
	put(t, u, "http://press.example/x", "x", nil)
	for name, text := range vectors.XML {
		if !strings.HasPrefix(name, "#") {
			continue // not of a unit
		}
		must(t, u.WriteState(name, []byte(text)))
		if got, err := os.ReadFile(filepath.Join(u.Dir(), name)); err != nil || string(got) != text {
			t.Errorf("%s holds %q, %v, want %q", name, got, err, text)
		}
	}
	if got := walk(t, u); len(got) != 1 {
		t.Errorf("walk beside state files: %q", got)
	}
	for _, name := range []string{"", "x", "#a/b", "../x", unitIDFile, nodePropsFile, contentDir, "#x\x00", "#x.temp"} {
		if err := u.WriteState(name, nil); err == nil {
			t.Errorf("state file %q was written", name)
		}
	}
}

// No link leads out of a unit, or to another place in it, whether to read or to write.
func TestLinks(t *testing.T) {
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	u := newUnitIn(t, t.TempDir())
	put(t, u, "http://press.example/real", "real", nil)
	base := filepath.Join(u.Dir(), "press.example/http")
	link := func(to, at string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, at); err != nil {
			t.Fatal(err)
		}
	}
	link("real", filepath.Join(base, "alias"))
	link(outside, filepath.Join(base, "out"))
	link(outside, filepath.Join(u.Dir(), "evil.example"))
	put(t, u, "http://press.example/body", "x", nil)
	if err := os.Remove(filepath.Join(base, "body/#content/current")); err != nil {
		t.Fatal(err)
	}
	link(filepath.Join(outside, "secret"), filepath.Join(base, "body/#content/current"))

	if got := walk(t, u); !slices.Equal(got, []string{"http://press.example/body", "http://press.example/real"}) {
		t.Errorf("walk %q", got)
	}
	v, err := u.Current("http://press.example/body")
	if err != nil {
		t.Fatal(err)
	}
	if f, err := v.Open(); err == nil {
		f.Close()
		t.Error("a body that is a link was opened")
	}
	for _, url := range []string{"http://press.example/alias", "http://press.example/out/secret", "http://evil.example/x"} {
		if _, err := u.Current(url); err == nil {
			t.Errorf("%s was found through a link", url)
		}
		if _, err := tryPut(u, url, "x", nil); err == nil {
			t.Errorf("%s was stored through a link", url)
		}
	}
	put(t, u, "http://press.example/body", "repaired", nil)
	if got := body(t, mustCurrent(t, u, "http://press.example/body")); got != "repaired" {
		t.Errorf("stored over a link: %q", got)
	}
	if b, err := os.ReadFile(filepath.Join(outside, "secret")); err != nil || string(b) != "secret" {
		t.Errorf("the file outside holds %q, %v", b, err)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 1 {
		t.Errorf("outside: %v, %v", entries, err)
	}
	// The replaced link is kept as version 1, but is none.
	if got := len(problems(t, u)); got != 3 {
		t.Errorf("problems %q, want one for each link to a directory", problems(t, u))
	}
}

func mustCurrent(t testing.TB, u *Unit, url string) *Version {
	t.Helper()
	v, err := u.Current(url)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Walk is in canonical order also where directory names are not.
func TestWalkOrder(t *testing.T) {
	u := newUnitIn(t, t.TempDir())
	long := strings.Repeat("l", 254)
	urls := []string{
		"http://b.example/", "https://a.example/", "http://a.example:8080/x", "http://a.example/x",
		"http://a.example/a", "http://a.example/a/b", "http://a.example/a-b", "http://a.example/a b", "http://a.example/a/b/c",
		"http://a.example/a?b=/c", "http://a.example/a?b", "http://a.example/a?b=-", "http://a.example/a?b=",
		"http://a.example/\U0001F600", "http://a.example/\uFFEE", "http://a.example/é",
		"http://a.example/" + long, "http://a.example/" + long + "l", "http://a.example/" + long + "l0", "http://a.example/" + long + "-xx",
		"http://a.example/" + long + "ll/below", "http://a.example/" + long + "zz", "http://a.example/" + long + "/below",
		"http://a.example/" + long + long + long, "http://a.example/" + long + long + long + "/x",
		"http://a.example/x?u=/y//", // keeps one slash; its own directory
	}
	want := make([]string, 0, len(urls))
	for i, url := range urls {
		sealed := put(t, u, url, fmt.Sprint(i), nil)
		want = append(want, sealed.NodeURL)
		if got := body(t, mustCurrent(t, u, sealed.NodeURL)); got != fmt.Sprint(i) {
			t.Errorf("%s: found as %s it holds %q, want %d", url, sealed.NodeURL, got, i)
		}
	}
	slices.SortFunc(want, lockss.CompareURL)
	if got := walk(t, u); !slices.Equal(got, want) {
		t.Errorf("walk gives\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	indexAgrees(t, u)
	var paged []string
	for after := ""; ; {
		items, err := u.List(after, 5)
		if err != nil {
			t.Fatal(err)
		}
		if len(items) == 0 {
			break
		}
		for _, it := range items {
			paged = append(paged, it.URL)
		}
		after = paged[len(paged)-1]
	}
	if !slices.Equal(paged, want) {
		t.Errorf("pages of the list give %q", paged)
	}
	ctx, cancel := context.WithCancel(context.Background())
	err := u.Walk(ctx, func(string) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled walk: %v", err)
	}
}

// Directories of old disks whose names were never normalised are found as they are.
func TestNotNormalised(t *testing.T) {
	u := newUnitIn(t, t.TempDir())
	put(t, u, "http://press.example/x", "x", nil)
	base := filepath.Join(u.Dir(), "press.example/http")
	for _, name := range []string{"a%5cb", "#other", "two#xwords", "dangling\\"} {
		if err := os.CopyFS(filepath.Join(base, name), os.DirFS(filepath.Join(base, "x"))); err != nil {
			t.Fatal(err)
		}
	}
	if got := walk(t, u); !slices.Equal(got, []string{"http://press.example/a%5cb", "http://press.example/x"}) {
		t.Errorf("walk %q", got)
	}
	if got := history(t, u, "http://press.example/a%5cb"); got != "1:x" {
		t.Errorf("not normalised: %s", got)
	}
	put(t, u, "http://press.example/a%5cb", "y", nil)
	if got := history(t, u, "http://press.example/a%5cb"); got != "2:y 1:x" {
		t.Errorf("not normalised, stored again: %s", got)
	}
}

func TestOpenContent(t *testing.T) {
	u := newUnitIn(t, t.TempDir())
	var zipped strings.Builder
	z := gzip.NewWriter(&zipped)
	long := strings.Repeat("text ", 10000)
	io.WriteString(z, long)
	z.Close()
	var short strings.Builder
	z.Reset(&short)
	io.WriteString(z, "text")
	z.Close()
	for _, c := range []struct{ name, encoding, body, want string }{
		{"plain", "", "text", "text"},
		{"gzip", "gzip", zipped.String(), long},
		{"short gzip", "GZIP", short.String(), "text"},
		{"said to be gzip", "gzip", "text", "text"},
		{"said to be deflate", "deflate", "text", "text"},
		{"cut gzip", "gzip", short.String()[:20], short.String()[:20]},
		{"empty", "gzip", "", ""},
		{"unknown", "br", "text", "text"},
	} {
		url := "http://press.example/" + c.name
		put(t, u, url, c.body, map[string]string{"Content-Encoding": c.encoding})
		f, err := mustCurrent(t, u, url).OpenContent()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(f)
		f.Close()
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %d bytes, %v, want %d", c.name, len(got), err, len(c.want))
		}
	}
}

// What is added to the disk of a 1.x node belongs to its user.
func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may give files away")
	}
	u := newUnitIn(t, t.TempDir())
	const owner = 12345
	if err := os.Chown(u.Dir(), owner, owner); err != nil {
		t.Fatal(err)
	}
	put(t, u, "http://press.example/a/b", "one", nil)
	put(t, u, "http://press.example/a/b", "two", nil)
	if err := u.WriteState("#au_state.xml", []byte("x")); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(u.Dir(), func(path string, e fs.DirEntry, err error) error {
		if err != nil || filepath.Base(path) == unitIDFile {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if st.Uid != owner || st.Gid != owner {
			t.Errorf("%s belongs to %d:%d", path, st.Uid, st.Gid)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
