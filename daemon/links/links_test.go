package links

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/text/encoding/charmap"
)

func load[T any](t testing.TB, name string) T {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var v T
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

type document struct {
	HTML, CSS, XML, Base, Encoding, Error string
	Expect                                []string
}

func TestHTML(t *testing.T) {
	for i, c := range load[[]document](t, "links_html.json") {
		body := c.HTML
		if c.Encoding == "ISO-8859-1" {
			var err error
			if body, err = charmap.ISO8859_1.NewEncoder().String(body); err != nil {
				t.Fatal(err)
			}
		}
		var got []string
		err := Extract("text/html; charset="+c.Encoding, c.Base, strings.NewReader(body), func(u string) { got = append(got, u) })
		if err != nil || !slices.Equal(got, c.Expect) {
			t.Errorf("%d: %s: got %q, %v, want %q", i, c.HTML, got, err, c.Expect)
		}
	}
}

func TestCSS(t *testing.T) {
	for i, c := range load[[]document](t, "links_css.json") {
		var got []string
		err := Extract("text/css", c.Base, iotest.OneByteReader(strings.NewReader(c.CSS)), func(u string) { got = append(got, u) })
		if err != nil || !slices.Equal(got, c.Expect) {
			t.Errorf("%d: %s: got %q, %v, want %q", i, c.CSS, got, err, c.Expect)
		}
	}
}

func TestXML(t *testing.T) {
	for i, c := range load[[]document](t, "links_xml.json") {
		var got []string
		err := Extract("text/xml", c.Base, strings.NewReader(c.XML), func(u string) { got = append(got, u) })
		if (err != nil) != (c.Error != "") || !slices.Equal(got, c.Expect) {
			t.Errorf("%d: %s: got %q, %v, want %q %s", i, c.XML, got, err, c.Expect, c.Error)
		}
	}
}

func TestEntities(t *testing.T) {
	v := load[struct {
		Names  map[string]rune
		Decode []struct{ In, Expect string }
	}](t, "html_entities.json")
	for name, c := range v.Names {
		if entities[name] != c {
			t.Errorf("&%s; is %d, want %d", name, entities[name], c)
		}
	}
	if len(entities) != len(v.Names) {
		t.Errorf("%d entities, want %d", len(entities), len(v.Names))
	}
	for _, c := range v.Decode {
		if got := unescape(c.In); got != c.Expect {
			t.Errorf("%s: got %q, want %q", c.In, got, c.Expect)
		}
	}
}

func TestResolve(t *testing.T) {
	for _, c := range load[[]struct{ Base, Link, Expect, Error string }](t, "url_resolve.json") {
		got, err := Resolve(c.Base, c.Link)
		if (err != nil) != (c.Error != "") || got != c.Expect {
			t.Errorf("%s + %q: got %q, %v, want %q %s", c.Base, c.Link, got, err, c.Expect, c.Error)
		}
	}
}

// guessed are the cases of charset.json that come from a statistical guess, which this node
// does not make; beside each what it takes instead.
var guessed = map[string]string{
	"706c61696e206173636969207465787420776974686f757420616e79206d61726b657220617420616c6c2c206a75737420776f726473": "ISO-8859-1",
	"64c3a96ac3a02076752c207472c3a873206672616ec3a76169732c206e61c3af766520657420636fc3bb74657578":                 "ISO-8859-1",
	"64e96ae02076752c207472e873206672616ee76169732c206e61ef766520657420636ffb74657578":                             "UTF-8",
	"78": "ISO-8859-1",
	"3c703e636861727365743d7574662d313620696e20746578743c2f703e": "ISO-8859-1",
}

func TestCharset(t *testing.T) {
	v := load[struct {
		Content []struct{ Hex, Declared, Expect, Note string }
		Header  []struct {
			In     string
			Expect struct{ Mime, Charset string } // no charset and an empty one are the same here
		} `json:"content_type_header"`
	}](t, "charset.json")
	for _, c := range v.Content {
		want := c.Expect
		if g, ok := guessed[c.Hex]; ok != (c.Note != "") {
			t.Errorf("%s: note %q, but listed as guessed: %v", c.Hex, c.Note, ok)
		} else if ok {
			want = g
		}
		head, err := hex.DecodeString(c.Hex)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := Charset(head, c.Declared); got != want {
			t.Errorf("%q, declared %s: got %s, want %s", head, c.Declared, got, want)
		}
	}
	for _, c := range v.Header {
		if mime, charset := ContentType(c.In); mime != c.Expect.Mime || charset != c.Expect.Charset {
			t.Errorf("%q: got %q %q, want %v", c.In, mime, charset, c.Expect)
		}
	}
}

// Line ends, tags and styles longer than every buffer, and the windows of style sheets.
func TestLong(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	for _, c := range []struct {
		name, kind, body string
		want             []string
	}{
		{"tag", "text/html", `<a title="` + long + `" href=a.html>`, []string{"http://h/a.html"}},
		{"tag over the limit", "text/html", `<a title="` + strings.Repeat(long, 11) + `" href=a.html><a href=b.html>`, []string{"http://h/b.html"}},
		{"script", "text/html", `<script>` + long + `</SCRIPT><a href=a.html>`, []string{"http://h/a.html"}},
		{"comment", "text/html", `<!--` + long + `--><a href=a.html>`, []string{"http://h/a.html"}},
		{"style", "text/html", `<style>` + long + `url(s.png)</style><a href=a.html>`, []string{"http://h/s.png", "http://h/a.html"}},
		{"style end cut by a buffer", "text/html", `<style>` + strings.Repeat("x", 16<<10-17) + `</style><a href=a.html>`, []string{"http://h/a.html"}},
		{"open style", "text/html", `<style>url(s.png)`, []string{"http://h/s.png"}},
		{"cr", "text/html", "<a\rhref=a\r\n.html>", []string{"http://h/a"}},
		{"link across windows", "text/css", strings.Repeat("x", cssWindow-5) + "url(s.png)", []string{"http://h/s.png"}},
		{"link in the overlap", "text/css", strings.Repeat("x", cssWindow-100) + "url(s.png)" + strings.Repeat("x", 100), []string{"http://h/s.png", "http://h/s.png"}},
		{"link too long", "text/css", "url(" + strings.Repeat("x", cssLongest+1) + ")", nil},
		{"open urls", "text/css", strings.Repeat("url('a", 5000) + strings.Repeat(" ", 20_000), nil},
	} {
		var got []string
		err := Extract(c.kind, "http://h/", strings.NewReader(c.body), func(u string) { got = append(got, u) })
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: got %.200q, %v, want %q", c.name, got, err, c.want)
		}
	}
}

func TestReadError(t *testing.T) {
	boom := fmt.Errorf("disk gone")
	for _, kind := range []string{"text/html", "text/css", "text/xml"} {
		r := iotest.TimeoutReader(iotest.DataErrReader(iotest.ErrReader(boom)))
		if err := Extract(kind, "http://h/", r, func(string) {}); err == nil {
			t.Errorf("%s: no error", kind)
		}
	}
	if err := Extract("image/png", "http://h/", iotest.ErrReader(boom), func(string) {}); err != nil {
		t.Errorf("image: was read: %v", err)
	}
}

func FuzzHTML(f *testing.F) {
	for _, c := range load[[]document](f, "links_html.json") {
		f.Add(c.HTML)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var whole, bytewise []string
		if err := HTML(strings.NewReader(s), "http://h/d/", func(u string) { whole = append(whole, u) }); err != nil {
			t.Fatal(err)
		}
		if err := HTML(iotest.OneByteReader(strings.NewReader(s)), "http://h/d/", func(u string) { bytewise = append(bytewise, u) }); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(whole, bytewise) {
			t.Errorf("got %q at once, %q byte by byte", whole, bytewise)
		}
	})
}

func FuzzCSS(f *testing.F) {
	for _, c := range load[[]document](f, "links_css.json") {
		f.Add(c.CSS)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if err := CSS(strings.NewReader(s), "http://h/d/", func(string) {}); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzResolve(f *testing.F) {
	for _, c := range load[[]struct{ Base, Link string }](f, "url_resolve.json") {
		f.Add(c.Base, c.Link)
	}
	f.Fuzz(func(t *testing.T, base, link string) {
		base, err := Resolve("", base)
		if err != nil {
			return
		}
		u, err := Resolve(base, link)
		if err != nil {
			return
		}
		if _, ok := split(u); !ok && !hasFold(u, "data:") {
			t.Errorf("%q + %q = %q, which has no known scheme", base, link, u)
		}
	})
}

func BenchmarkHTML(b *testing.B) {
	page := strings.Repeat(`<p class="x">Crawl block preserve issue agree volume quorum.</p><a href="/v1/issue1/art01.html?a=1&amp;b=2">one</a><img src="fig.png">`+"\n", 1000)
	b.SetBytes(int64(len(page)))
	b.ReportAllocs()
	for b.Loop() {
		if err := Extract("text/html; charset=utf-8", "http://h/d/", strings.NewReader(page), func(string) {}); err != nil {
			b.Fatal(err)
		}
	}
}
