package links

import (
	"bufio"
	"bytes"
	"io"
	"strings"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/htmlindex"
	"golang.org/x/text/encoding/ianaindex"
	"golang.org/x/text/encoding/unicode/utf32"
	"golang.org/x/text/transform"
)

// charsetHead is how much of a page is looked at for its charset, bytes (crawl.md 10.1).
const charsetHead = 1024

// boms are the byte order marks that name a charset this node can read; the longer ones
// first, since that of UTF-32LE begins like that of UTF-16LE.
var boms = []struct{ mark, name string }{
	{"\x00\x00\xfe\xff", "UTF-32BE"},
	{"\xff\xfe\x00\x00", "UTF-32LE"},
	{"\xef\xbb\xbf", "UTF-8"},
	{"\xfe\xff", "UTF-16BE"},
	{"\xff\xfe", "UTF-16LE"},
}

// Charset says in which charset a page is that begins with head, and how many bytes of it
// are a byte order mark to be dropped (crawl.md 10.1): as declared in the page, else by byte
// order mark, else as the Content-Type header declares, else ISO-8859-1. Names that are not
// known count as none. The classic node guesses by letter frequency before it believes the
// header; that guess is not reproducible and left out. It matters to links with non-ASCII
// letters only.
func Charset(head []byte, declared string) (name string, bom int) {
	head = head[:min(len(head), charsetHead)]
	if e := lookup(declaration(head)); e != nil {
		return charsetName(e), 0
	}
	for _, b := range boms {
		if bytes.HasPrefix(head, []byte(b.mark)) {
			return b.name, len(b.mark)
		}
	}
	if e := lookup(declared); e != nil {
		return charsetName(e), 0
	}
	return "ISO-8859-1", 0
}

// Text gives the page r, declared to be of the type contentType, as UTF-8. Bytes that mean
// nothing in its charset become U+FFFD.
func Text(contentType string, r io.Reader) io.Reader {
	br := bufio.NewReaderSize(r, 16<<10)
	head, _ := br.Peek(charsetHead) // an error comes again with the first Read
	_, declared := ContentType(contentType)
	name, bom := Charset(head, declared)
	br.Discard(bom) // just peeked
	e := lookup(name)
	if e == nil {
		e = charmap.ISO8859_1
	}
	return transform.NewReader(br, e.NewDecoder())
}

// declaration finds a charset named inside a tag: "charset", or "encoding" in a tag that
// starts with "<?", not after a letter or digit; hyphens and NULs in it do not count, so
// that it is found in UTF-16 too.
func declaration(head []byte) string {
	in, instruction := false, false
	for i, c := range head {
		switch {
		case c == '<':
			in, instruction = true, i+1 < len(head) && head[i+1] == '?'
		case c == '>':
			in = false
		case !in || i > 0 && alnum(head[i-1]):
		default:
			if v := assigned(head[i:], "charset"); v != "" {
				return v
			}
			if v := assigned(head[i:], "encoding"); instruction && v != "" {
				return v
			}
		}
	}
	return ""
}

// assigned is the value of word=value at the start of b, or "".
func assigned(b []byte, word string) string {
	i, k := 0, 0
	for ; i < len(b) && k < len(word); i++ {
		switch c := b[i]; {
		case c|0x20 == word[k]:
			k++
		case k > 0 && (c == '-' || c == 0):
		default:
			return ""
		}
	}
	if k < len(word) {
		return ""
	}
	skip := func(set string) {
		for i < len(b) && strings.IndexByte(set, b[i]) >= 0 {
			i++
		}
	}
	skip(" \t\r\n\x00")
	if i == len(b) || b[i] != '=' {
		return ""
	}
	i++
	skip(" \t\r\n\x00\"'")
	var v []byte
	for ; i < len(b) && strings.IndexByte(" \t\r\n\"'<>;?/", b[i]) < 0; i++ {
		if b[i] != 0 {
			v = append(v, b[i])
		}
	}
	return string(v)
}

func alnum(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}

// lookup finds a charset by a name of IANA, or one that browsers know; nil: not known.
func lookup(name string) encoding.Encoding {
	switch strings.ToUpper(name) {
	case "":
		return nil
	case "UTF-32LE":
		return utf32LE
	case "UTF-32BE":
		return utf32BE
	}
	if e, err := ianaindex.IANA.Encoding(name); err == nil && e != nil {
		return e
	}
	if e, err := htmlindex.Get(name); err == nil && e != encoding.Replacement {
		return e
	}
	return nil
}

var (
	utf32LE = utf32.UTF32(utf32.LittleEndian, utf32.IgnoreBOM)
	utf32BE = utf32.UTF32(utf32.BigEndian, utf32.IgnoreBOM)
)

func charsetName(e encoding.Encoding) string {
	switch e {
	case utf32LE:
		return "UTF-32LE"
	case utf32BE:
		return "UTF-32BE"
	}
	if n, err := ianaindex.MIME.Name(e); err == nil {
		return n
	}
	n, _ := htmlindex.Name(e) // every encoding has one of the two
	return n
}

// lfReader makes CR and CRLF to LF.
type lfReader struct {
	r  io.Reader
	cr bool // the last byte was CR
}

func (l *lfReader) Read(p []byte) (int, error) {
	for {
		n, err := l.r.Read(p)
		out := 0
		for _, c := range p[:n] {
			after := l.cr
			l.cr = c == '\r'
			switch {
			case c == '\r':
				c = '\n'
			case c == '\n' && after:
				continue
			}
			p[out] = c
			out++
		}
		if out > 0 || err != nil || len(p) == 0 {
			return out, err
		}
	}
}
