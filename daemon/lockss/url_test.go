package lockss

import (
	"encoding/json"
	"os"
	"testing"
)

func TestNormalizeURL(t *testing.T) {
	var cases []struct {
		URL    string
		Expect *string
		Error  string
	}
	readURLVectors(t, "testdata/url_normalize.json", &cases)
	for _, c := range cases {
		got, err := NormalizeURL(c.URL)
		switch {
		case c.Expect == nil && err == nil:
			t.Errorf("NormalizeURL(%q) = %q, want an error (%s)", c.URL, got, c.Error)
		case c.Expect != nil && (err != nil || got != *c.Expect):
			t.Errorf("NormalizeURL(%q) = %q, %v, want %q", c.URL, got, err, *c.Expect)
		}
	}
}

func TestNodeURL(t *testing.T) {
	var cases []struct {
		URL  string
		Node *string
		Note string
	}
	readURLVectors(t, "testdata/url-to-path.json", &cases)
	for _, c := range cases {
		got, err := NodeURL(c.URL)
		switch {
		case c.Node == nil && err == nil:
			t.Errorf("%s: NodeURL(%q) = %q, want an error", c.Note, c.URL, got)
		case c.Node != nil && (err != nil || got != *c.Node):
			t.Errorf("%s: NodeURL(%q) = %q, %v, want %q", c.Note, c.URL, got, err, *c.Node)
		}
	}
}

func readURLVectors(t *testing.T, name string, cases any) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, cases); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// Normalising twice is normalising once: a URL is stored and looked up by its normal form.
func FuzzNormalizeURL(f *testing.F) {
	for _, s := range []string{
		"http://www.example.com/a/./b/../%e2?x=%2f#y", " HTTP://u:p@[2001:DB8::1]:080//?", "file:///a/..",
		"http://h/x\n y", "https://h:443?q/", "http://h/%%ab/%/c", "http:x", "jar:file:/x!/y", "http://h/a/..//.",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		once, err := NormalizeURL(raw)
		if err != nil || once > "" && once[len(once)-1] <= ' ' {
			return // a blank before a fragment is kept, and trimmed when it has become the end
		}
		if twice, err := NormalizeURL(once); err != nil || twice != once {
			t.Errorf("NormalizeURL(%q) = %q, of which it makes %q, %v", raw, once, twice, err)
		}
	})
}
