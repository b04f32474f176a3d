package links

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// maxTag is how much of a tag is evaluated, bytes. The rest of a longer one is skipped.
	maxTag = 1 << 20
	// maxData is how deep data: URIs may lie in each other.
	maxData = 4
	// longestEntity is the longest name of an entity, "thetasym".
	longestEntity = 8
)

// linkAttr is the attribute of each tag that holds a link (crawl.md 10.2); base and meta
// have rules of their own.
var linkAttr = map[string]string{
	"a": "href", "area": "href", "link": "href",
	"img": "src", "frame": "src", "iframe": "src", "embed": "src", "script": "src",
	"applet": "code", "object": "codebase",
	"body": "background", "table": "background", "td": "background", "th": "background",
}

// HTML gives the links of the page r, UTF-8, at the URL base (crawl.md 10.2).
func HTML(r io.Reader, base string, emit func(string)) error {
	return scanHTML(r, base, emit, 0)
}

func scanHTML(r io.Reader, base string, emit func(string), depth int) error {
	s := &scanner{in: bufio.NewReaderSize(&lfReader{r: r}, 16<<10), page: base, base: base, emit: emit, depth: depth}
	err := s.scan()
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// A scanner goes once through a page.
type scanner struct {
	in      *bufio.Reader
	page    string // base of style sheets
	base    string // base of links; "": only absolute links
	baseSet bool
	emit    func(string)
	depth   int       // of data: URIs
	tags    func(Tag) // not nil: gets the tags, no links are looked for
}

// scan ends with io.EOF or an error of the reader.
func (s *scanner) scan() error {
	for {
		if err := s.skipTo('<'); err != nil {
			return err
		}
		if err := s.skipWhite(); err != nil {
			return err
		}
		next, err := s.peekChars(5)
		if err != nil {
			return err
		}
		switch {
		case bytes.HasPrefix(next, []byte("!--")):
			s.in.Discard(len("!--"))
			err = s.skipPast("-->", "--!>")
		case foldBytes(next, "script>"):
			err = s.skipPast("/script>")
		case foldBytes(next, "style>"):
			s.in.Discard(len("style>"))
			err = s.style()
		default:
			err = s.tag()
		}
		if err != nil {
			return err
		}
	}
}

// peekChars looks ahead; fewer than n characters left are io.EOF.
func (s *scanner) peekChars(n int) ([]byte, error) {
	b, err := s.in.Peek(n * utf8.UTFMax)
	if utf8.RuneCount(b) < n {
		if err == nil {
			err = io.EOF
		}
		return nil, err
	}
	return b, nil
}

func foldBytes(b []byte, prefix string) bool {
	return len(b) >= len(prefix) && strings.EqualFold(string(b[:len(prefix)]), prefix)
}

func (s *scanner) skipTo(c byte) error {
	for {
		if _, err := s.in.ReadSlice(c); !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}

func (s *scanner) skipWhite() error {
	for {
		c, err := s.in.ReadByte()
		if err != nil {
			return err
		}
		if !asciiSpace(rune(c)) {
			return s.in.UnreadByte()
		}
	}
}

// skipPast goes on after the first of the ends, each of which ends in ">", its only one; case
// does not matter.
func (s *scanner) skipPast(ends ...string) error {
	var tail []byte
	for {
		b, err := s.in.ReadSlice('>')
		tail = append(tail, b...)
		if err == nil {
			for _, e := range ends {
				if len(tail) >= len(e) && strings.EqualFold(string(tail[len(tail)-len(e):]), e) {
					return nil
				}
			}
			tail = tail[:0]
			continue
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
		tail = tail[:copy(tail, tail[max(0, len(tail)-16):])]
	}
}

// style gives the text up to </style> to the CSS extractor.
func (s *scanner) style() error {
	st := &styleReader{in: s.in}
	if err := CSS(st, s.page, s.emit); err != nil {
		return err
	}
	return st.err
}

// styleReader ends before "</style>", which it consumes.
type styleReader struct {
	in   *bufio.Reader
	out  []byte // to be given
	held []byte // what may be the beginning of the end tag
	done bool
	err  error // of in, io.EOF included
}

const styleEnd = "</style>"

func (r *styleReader) Read(p []byte) (int, error) {
	for len(r.out) == 0 {
		if r.done || r.err != nil {
			if r.err != nil && !errors.Is(r.err, io.EOF) {
				return 0, r.err
			}
			return 0, io.EOF
		}
		b, err := r.in.ReadSlice('>')
		text := append(r.held, b...)
		r.held = nil
		switch {
		case err == nil:
			if n := len(text) - len(styleEnd); n >= 0 && strings.EqualFold(string(text[n:]), styleEnd) {
				text, r.done = text[:n], true
			}
		case errors.Is(err, bufio.ErrBufferFull):
			n := max(0, len(text)-len(styleEnd))
			r.held = bytes.Clone(text[n:])
			text = text[:n]
		default:
			r.err = err
		}
		r.out = text
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}

// tag reads a tag to its ">", or the end, and evaluates it.
func (s *scanner) tag() error {
	var text []byte
	var err error
	for {
		var b []byte
		b, err = s.in.ReadSlice('>')
		text = append(text, b[:min(len(b), maxTag+1-len(text))]...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			break
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	t := strings.TrimSuffix(string(text), ">")
	if utf8.RuneCountInString(t) < 5 {
		return err
	}
	name := s.evaluate(t)
	if err != nil {
		return err
	}
	switch name {
	case "script":
		return s.skipPast("/script>")
	case "style":
		return s.style()
	}
	return nil
}

// evaluate emits the links of a tag and returns its name in small letters, "" when no white
// space follows the name.
func (s *scanner) evaluate(t string) string {
	name := ""
	if i := strings.IndexAny(t, " \t\n\r\f\v"); i >= 0 {
		name = strings.ToLower(t[:i])
	}
	if s.tags != nil {
		s.tags(Tag{name, t})
		return name
	}
	switch name {
	case "base":
		if v, ok := attribute(t, "href"); ok {
			s.setBase(trim(unescape(v)))
		}
	case "meta":
		if v, _ := attribute(t, "http-equiv"); strings.EqualFold(unescape(v), "refresh") {
			c, _ := attribute(t, "content")
			if u, ok := refresh(unescape(c)); ok {
				s.link(u)
			}
		}
	default:
		if attr, ok := linkAttr[name]; ok {
			if v, ok := attribute(t, attr); ok {
				s.link(unescape(v))
			}
		}
	}
	if v, ok := attribute(t, "style"); ok {
		// A string gives no read error.
		_ = CSS(strings.NewReader(unescape(v)), s.page, s.emit)
	}
	return name
}

// setBase takes the first absolute URL as base of the following links. One of an unknown
// scheme leaves them without base.
func (s *scanner) setBase(u string) {
	scheme, _, ok := strings.Cut(u, ":")
	if s.baseSet || !ok || !isScheme(scheme) {
		return
	}
	s.baseSet, s.base = true, ""
	if _, known := split(u); known {
		s.base = u
	}
}

// refresh takes the URL out of "5; url=next.html"; quotes around it are kept.
func refresh(content string) (string, bool) {
	i := strings.IndexAny(content, ";,")
	if i < 0 {
		return "", false
	}
	rest := strings.TrimLeft(content[i+1:], " \t\n\r")
	if !hasFold(rest, "url=") {
		return "", false
	}
	return rest[len("url="):], true
}

// link resolves and emits v, or looks for links in it when it is a data: URI.
func (s *scanner) link(v string) {
	t := trim(v)
	switch {
	case hasFold(t, "javascript:"), hasFold(t, "mailto:"):
	case hasFold(t, "data:"):
		s.data(t)
	default:
		if u, err := Resolve(s.base, v); err == nil {
			s.emit(u)
		}
	}
}

// data gives the text of "data:type;base64,text" to the extractor of its type.
func (s *scanner) data(u string) {
	if s.depth >= maxData {
		return
	}
	head, text, ok := strings.Cut(u[len("data:"):], ",")
	if !ok {
		return
	}
	head, b64 := strings.CutSuffix(head, ";base64")
	kind := Kind(head)
	if kind == "" {
		return
	}
	text = unpercent(text)
	if b64 {
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return
		}
		text = string(b)
	}
	r := Text(head, strings.NewReader(text))
	// A string gives no read error, and an empty document no link.
	switch kind {
	case KindHTML:
		_ = scanHTML(r, s.base, s.emit, s.depth+1)
	case KindCSS:
		_ = CSS(r, s.base, s.emit)
	case KindXML:
		_ = XML(r, s.base, s.emit)
	}
}

// unpercent decodes %XX; text in which that fails stays as it is.
func unpercent(s string) string {
	if d, err := url.PathUnescape(s); err == nil {
		return d
	}
	return s
}

// attribute finds a value in the text of a tag: after the first "=" before which, white
// space and delimiters aside, stands the name in any case. Quotes do not hinder the search:
// title="href=x" is found (crawl.md 10.2).
func attribute(t, name string) (string, bool) {
	last := ""
	for i := 0; i < len(t); {
		if !delimiter(t[i]) {
			j := i
			for j < len(t) && !delimiter(t[j]) {
				j++
			}
			last, i = t[i:j], j
			continue
		}
		if t[i] == '=' && strings.EqualFold(last, name) {
			return value(t[i+1:])
		}
		if !white(t[i]) {
			last = t[i : i+1]
		}
		i++
	}
	return "", false
}

func value(t string) (string, bool) {
	t = strings.TrimLeft(t, " \t\n\r")
	if t == "" {
		return "", false
	}
	if t[0] == '"' || t[0] == '\'' {
		v, _, _ := strings.Cut(t[1:], t[:1])
		return v, true
	}
	if i := strings.IndexAny(t, " \t\n\r"); i >= 0 {
		t = t[:i]
	}
	return t, true
}

func white(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

func delimiter(c byte) bool { return white(c) || c == '\'' || c == '"' || c == '=' }

// unescape decodes entities, once: names with or without ";", of several the longest
// ("&order" is "&or" and "der"); numbers likewise. Unknown ones stay.
func unescape(s string) string {
	i := strings.IndexByte(s, '&')
	if i < 0 {
		return s
	}
	var b strings.Builder
	for i >= 0 {
		b.WriteString(s[:i])
		s = s[i:]
		c, n := entity(s)
		if n == 0 {
			b.WriteByte('&')
			n = 1
		} else {
			b.WriteRune(c)
		}
		s = s[n:]
		i = strings.IndexByte(s, '&')
	}
	b.WriteString(s)
	return b.String()
}

// entity is the character at the start of s, which begins with "&", and the length of what
// stands for it; 0 if it is none.
func entity(s string) (c rune, n int) {
	end := func(c rune, n int) (rune, int) {
		if n < len(s) && s[n] == ';' {
			n++
		}
		return c, n
	}
	if strings.HasPrefix(s, "&#") {
		i, digits, base := 2, "0123456789", 10
		if len(s) > 2 && s[2]|0x20 == 'x' {
			i, digits, base = 3, "0123456789abcdefABCDEF", 16
		}
		j := i
		for j < len(s) && strings.IndexByte(digits, s[j]) >= 0 {
			j++
		}
		v, err := strconv.ParseUint(s[i:j], base, 32)
		if err != nil || !utf8.ValidRune(rune(v)) || v > utf8.MaxRune {
			return 0, 0
		}
		return end(rune(v), j)
	}
	for j := min(len(s), 1+longestEntity); j > 1; j-- {
		if c, ok := entities[s[1:j]]; ok {
			return end(c, j)
		}
	}
	return 0, 0
}

// A Tag is one tag of a page as the scanner sees it: not in a comment, script or style.
type Tag struct {
	Name string // in small letters; "" when no white space follows it
	text string
}

// Attr is the value of an attribute with its entities decoded, not trimmed.
func (t Tag) Attr(name string) (string, bool) {
	v, ok := attribute(t.text, name)
	return unescape(v), ok
}

// Tags calls fn for each tag of the page r, UTF-8, that the scanner for links looks into.
func Tags(r io.Reader, fn func(Tag)) error {
	s := &scanner{in: bufio.NewReaderSize(&lfReader{r: r}, 16<<10), emit: func(string) {}, tags: fn}
	if err := s.scan(); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}
