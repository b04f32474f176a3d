package javaprops

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

type vectorFile struct {
	Encode []struct {
		Note                string
		Properties, Decoded map[string]string
		Hex                 string   `json:"encoded_hex"`
		Comment             string   `json:"comment_line"`
		Lines               []string `json:"lines_sorted"`
	}
	Decode []struct {
		Text    string
		Hex     string `json:"encoded_hex"`
		Decoded any
	}
}

func vectors(t testing.TB) vectorFile {
	t.Helper()
	b, err := os.ReadFile("testdata/encoded-property.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectorFile
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEncodedPropertyVectorsEncode(t *testing.T) {
	for _, c := range vectors(t).Encode {
		got := string(Append(nil, []string{c.Comment[1:]}, c.Properties))
		lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
		if lines[0] != c.Comment {
			t.Errorf("%s: comment %q, want %q", c.Note, lines[0], c.Comment)
		}
		if !slices.Equal(slices.Sorted(slices.Values(lines[1:])), c.Lines) {
			t.Errorf("%s: lines %q, want %q", c.Note, lines[1:], c.Lines)
		}
		for _, b := range [][]byte{[]byte(got), unhex(t, c.Hex)} {
			if back, err := Parse(b); err != nil || !maps.Equal(back, c.Decoded) {
				t.Errorf("%s: Parse(%q) = %q, %v, want %q", c.Note, b, back, err, c.Decoded)
			}
		}
	}
}

func TestEncodedPropertyVectorsDecode(t *testing.T) {
	for _, c := range vectors(t).Decode {
		got, err := Parse(unhex(t, c.Hex))
		if c.Decoded == "malformed" {
			var syntax *SyntaxError
			if !errors.As(err, &syntax) {
				t.Errorf("Parse(%q) = %q, %v, want malformed", c.Text, got, err)
			}
			continue
		}
		want := map[string]string{}
		for k, v := range c.Decoded.(map[string]any) {
			want[k] = v.(string)
		}
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("Parse(%q) = %q, %v, want %q", c.Text, got, err, want)
		}
	}
}

// Cases of java.util.Properties beyond the vectors.
func TestParseLikeJava(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     map[string]string
	}{
		{"empty", "", map[string]string{}},
		{"continuation is no comment", "a=1\\\n#2\nb=3\n", map[string]string{"a": "1#2", "b": "3"}},
		{"comment does not continue", "#x\\\na=1\n", map[string]string{"a": "1"}},
		{"continued by a blank line", "a=1\\\n\nb=2\n", map[string]string{"a": "1", "b": "2"}},
		{"continued CRLF", "a=1\\\r\n\t 2\r\n", map[string]string{"a": "12"}},
		{"continued key", "a\\\n b=1", map[string]string{"ab": "1"}},
		{"only a backslash", "\\\n", map[string]string{"": ""}},
		{"only a backslash, CRLF", "\\\r\n", map[string]string{}},
		{"comment after only a backslash", "\\\n#x\na=1", map[string]string{"a": "1"}},
		{"blank line after only a backslash", "\\\n\n \\\n a=1", map[string]string{"a": "1"}},
		{"backslash at the end", `a=b\`, map[string]string{"a": "b"}},
		{"even backslashes", `a=b\\` + "\nc=d", map[string]string{"a": `b\`, "c": "d"}},
		{"form feeds", "\f a\f=\fb\f\n", map[string]string{"a": "b\f"}},
		{"empty key", ": x", map[string]string{"": "x"}},
		{"escaped backslash before separator", `a\\=b`, map[string]string{`a\`: "b"}},
		{"lone surrogates", `a=\uD83Dx\uDE00\uD83D`, map[string]string{"a": "\xED\xA0\xBDx\xED\xB8\x80\xED\xA0\xBD"}},
		{"surrogates the wrong way round", `a=\uDE00\uD83D`, map[string]string{"a": "\xED\xB8\x80\xED\xA0\xBD"}},
		{"three surrogates", `a=\uD83D\uD83D\uDE00`, map[string]string{"a": "\xED\xA0\xBD\U0001F600"}},
		{"NUL", "a=\x00\n", map[string]string{"a": "\x00"}},
	} {
		got, err := Parse([]byte(c.in))
		if err != nil || !maps.Equal(got, c.want) {
			t.Errorf("%s: Parse(%q) = %+q, %v, want %+q", c.name, c.in, got, err, c.want)
		}
		if again, err := Parse(Append(nil, nil, got)); err != nil || !maps.Equal(again, c.want) {
			t.Errorf("%s: written and read: %+q, %v, want %+q", c.name, again, err, c.want)
		}
	}
}

func TestSyntaxErrorNamesTheLine(t *testing.T) {
	for in, want := range map[string]int{"a=1\n\n#\nb=\\u12\n": 4, "a=\\uzzzz": 1, "a=1\\\n2\nb\\u=\n": 3} {
		_, err := Parse([]byte(in))
		var syntax *SyntaxError
		if !errors.As(err, &syntax) || syntax.Line != want {
			t.Errorf("Parse(%q): %v, want an error in line %d", in, err, want)
		}
	}
}

func TestAppend(t *testing.T) {
	got := string(Append([]byte("x"), []string{"HTTP headers for http://x/\u00e9", "two\nlines"},
		map[string]string{"b": " 2", "a b": "1 \xe9", "": ""}))
	want := "x#HTTP headers for http://x/\\u00E9\n#two lines\n=\na\\ b=1 \\u00E9\nb=\\ 2\n"
	if got != want {
		t.Errorf("Append: %q, want %q", got, want)
	}
}

func FuzzParse(f *testing.F) {
	v := vectors(f)
	for _, c := range v.Encode {
		f.Add(unhex(f, c.Hex))
	}
	for _, c := range v.Decode {
		f.Add(unhex(f, c.Hex))
	}
	f.Add([]byte(`a=\uD83D\uDE00\uDE00`))
	f.Fuzz(func(t *testing.T, b []byte) {
		props, err := Parse(b)
		if err != nil {
			return
		}
		out := Append(nil, nil, props)
		if i := bytes.IndexFunc(out, func(r rune) bool { return r > '~' || r < ' ' && r != '\n' }); i >= 0 {
			t.Errorf("%q is not plain ASCII at %d", out, i)
		}
		again, err := Parse(out)
		if err != nil || !maps.Equal(again, props) {
			t.Errorf("%q: read %+q, written and read %+q, %v", b, props, again, err)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	text := Append(nil, []string{"headers"}, map[string]string{
		"content-type": "text/html; charset=UTF-8", "x-lockss-node-url": "http://www.example.com/a/b.html",
		"etag": `"4d6f3a94c9c2"`, "last-modified": "Tue, 03 Jan 2017 10:00:00 GMT", "x_lockss-server-date": "1483437600000",
	})
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(text); err != nil {
			b.Fatal(err)
		}
	}
}
