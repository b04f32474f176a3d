package store

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"armarium/daemon/lockss"
)

func TestURLToPath(t *testing.T) {
	var cases []struct {
		URL, Note       string
		Node, Path      *string
		PathError, Fail string
	}
	b, err := os.ReadFile("testdata/url-to-path.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &cases); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		comps, err := nodePath(c.URL)
		if c.Node == nil {
			if err == nil {
				t.Errorf("%s: nodePath(%q) = %q, want an error", c.Note, c.URL, comps)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: nodePath(%q): %v", c.Note, c.URL, err)
			continue
		}
		if got := strings.Join(comps, "/"); c.Path != nil && got != *c.Path {
			t.Errorf("%s: nodePath(%q) = %s, want %s", c.Note, c.URL, got, *c.Path)
		}

		// And back. Three things do not come back: user info, a path without host, and a
		// raw backslash, which has become its escape.
		want := strings.ReplaceAll(*c.Node, `\`, "%5C")
		switch {
		case strings.Contains(want, "user:pw@"):
			want = strings.Replace(want, "user:pw@", "", 1)
		case strings.HasPrefix(want, "http:///"):
			continue
		}
		if got, err := pathURL(comps); err != nil || got != want {
			t.Errorf("%s: pathURL(%q) = %q, %v, want %q", c.Note, comps, got, err, want)
		}
		for _, name := range comps {
			if len(name) > maxComponent {
				t.Errorf("%s: component of %d bytes in %q", c.Note, len(name), comps)
			}
		}
	}
}

func TestURLToPathRefused(t *testing.T) {
	for _, url := range []string{
		"", "http", "http://../x", "http://./x", "http://h/\xff", "http://h/a\x00b", "http://a\\b/x",
		"http://h/" + strings.Repeat("x", maxURL), "mailto:a@example.com", "http://" + strings.Repeat("h", 256) + "/",
	} {
		if comps, err := nodePath(url); err == nil {
			t.Errorf("nodePath(%q) = %q, want an error", url, comps)
		}
	}
}

// A long name whose last bytes are dots must not be split into a step to the parent.
func TestURLToPathDotRest(t *testing.T) {
	for _, dots := range []string{".", ".."} {
		for _, char := range []string{"a", "é", "€"} {
			url := "http://h/" + strings.Repeat(char, (256-len(dots))/len(char)) + dots
			for n := range 4 {
				u := strings.Replace(url, "http://h/", "http://h/"+strings.Repeat("b", n), 1)
				comps, err := urlPath(u)
				if err != nil {
					t.Fatal(err)
				}
				if slices.Contains(comps, ".") || slices.Contains(comps, "..") {
					t.Errorf("urlPath(%q) = %q", u, comps)
				}
				if back, err := pathURL(comps); back != u {
					t.Errorf("pathURL(%q) = %q, %v, want %q", comps, back, err, u)
				}
			}
		}
	}
}

func TestUnitName(t *testing.T) {
	for n, want := range map[int]string{1: "a", 2: "b", 26: "z", 27: "aa", 52: "az", 53: "ba", 702: "zz", 703: "aaa"} {
		if got := unitName(n); got != want {
			t.Errorf("unitName(%d) = %q, want %q", n, got, want)
		}
	}
}

// Every URL that has a path comes back from it, and no path leaves the unit.
func FuzzURLToPath(f *testing.F) {
	for _, s := range []string{
		"http://www.example.com/a/x?u=/y#z", "http://[2001:db8::1]:8080/x", `http://h/a\b?c=\d`,
		"http://h/" + strings.Repeat("é", 300), "http://h/" + strings.Repeat("/q", 200) + "?" + strings.Repeat("/v", 300),
		"http://h/" + strings.Repeat("a", 254) + "..", "http://u@h/..", "ftp://h//", "http://h/a?b/ /",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		node, err := lockss.NodeURL(raw)
		if err != nil {
			return
		}
		comps, err := urlPath(node)
		if err != nil {
			return
		}
		for _, c := range comps {
			if c == "" || c == "." || c == ".." || len(c) > maxComponent || strings.ContainsAny(c, "/\x00") || !utf8.ValidString(c) {
				t.Fatalf("urlPath(%q) has the component %q", node, c)
			}
		}
		if len(comps) < 2 || strings.HasPrefix(node, comps[0]+"://") && !strings.HasPrefix(node, comps[1]+"://") {
			return // no host
		}
		back, err := pathURL(comps)
		if err != nil {
			t.Fatalf("pathURL(%q): %v", comps, err)
		}
		again, err := urlPath(back)
		if err != nil || !slices.Equal(again, comps) {
			t.Errorf("%q: path %q gives %q, which has the path %q, %v", raw, comps, back, again, err)
		}
	})
}
