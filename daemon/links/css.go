package links

import (
	"bufio"
	"errors"
	"io"
	"strings"
)

// The classic node looks at style sheets in windows that overlap; a link cut by a window's
// end is found in the next one, and one within the overlap twice (crawl.md 10.3).
const (
	cssWindow  = 32 << 10 // characters
	cssOverlap = 2 << 10
	cssLongest = 2100 // characters of a link
)

// CSS gives the links of the style sheet r, UTF-8, at base (crawl.md 10.3):
//
//	(?:@import\s+(?:url[(]|)|url[(])\s*(["']?)(.{0,2100}?)\1\s*[);]
//
// searched ignoring case, in comments too. Group 2 is the link.
func CSS(r io.Reader, base string, emit func(string)) error {
	br := bufio.NewReader(r)
	var win []rune // style attributes are many and short
	for {
		for len(win) < cssWindow {
			c, err := cssRune(br)
			if errors.Is(err, io.EOF) {
				cssLinks(win, base, emit)
				return nil
			}
			if err != nil {
				return err
			}
			win = append(win, c)
		}
		cssLinks(win, base, emit)
		win = win[:copy(win, win[len(win)-cssOverlap:])]
	}
}

// cssRune reads a character; lines that end in a backslash are joined.
func cssRune(br *bufio.Reader) (rune, error) {
	for {
		c, _, err := br.ReadRune()
		if err != nil || c != '\\' {
			return c, err
		}
		switch next, _ := br.Peek(2); {
		case string(next) == "\r\n":
			br.Discard(2)
		case len(next) > 0 && (next[0] == '\n' || next[0] == '\r'):
			br.Discard(1)
		default:
			return c, nil
		}
	}
}

func cssLinks(t []rune, base string, emit func(string)) {
	s := cssSearch{t: t, end: -1, line: -1}
	for i := 0; i < len(t); {
		link, next := s.match(i)
		if next == 0 {
			i++
			continue
		}
		i = next
		if s := cssUnescape(link); s != "" {
			if u, err := Resolve(base, s); err == nil {
				emit(u)
			}
		}
	}
}

// A cssSearch goes through a window from its beginning to its end. It remembers what lies
// ahead, so that many beginnings of links without an end take no longer than few.
type cssSearch struct {
	t    []rune
	end  int // next ")" or ";", or len(t)
	run  int // beginning of the white space before it
	line int // next end of a line, or len(t)
}

// ahead brings the search up to p.
func (s *cssSearch) ahead(p int) {
	if s.end < p {
		s.run = p
		for s.end = p; s.end < len(s.t) && !cssEnd(s.t, s.end); s.end++ {
			if !asciiSpace(s.t[s.end]) {
				s.run = s.end + 1
			}
		}
	}
	if s.line < p {
		for s.line = p; s.line < len(s.t) && !lineEnd(s.t[s.line]); s.line++ {
		}
	}
}

// match matches the expression at i; next is where the search goes on, 0 for no match.
func (s *cssSearch) match(i int) (link []rune, next int) {
	t, p := s.t, 0
	switch t[i] {
	case '@':
		if !foldPrefix(t[i:], "@import") {
			return nil, 0
		}
		if p = skipSpace(t, i+len("@import")); p == i+len("@import") {
			return nil, 0
		}
		if foldPrefix(t[p:], "url(") {
			p += len("url(")
		}
	case 'u', 'U':
		if !foldPrefix(t[i:], "url(") {
			return nil, 0
		}
		p = i + len("url(")
	default:
		return nil, 0
	}
	p = skipSpace(t, p)
	s.ahead(p)
	last := max(p, s.run) // character of the link, or the quote, before the first end
	if s.end == len(t) || last-1 > s.line || last-1 > p+1+cssLongest {
		return nil, 0
	}
	if t[p] == '"' || t[p] == '\'' {
		for k := p + 1; k < len(t) && k-p-1 <= cssLongest; k++ {
			if t[k] == t[p] {
				if m := skipSpace(t, k+1); cssEnd(t, m) {
					return t[p+1 : k], m + 1
				}
			}
			if lineEnd(t[k]) {
				break
			}
		}
	}
	if last <= s.line && last-p <= cssLongest {
		return t[p:last], s.end + 1
	}
	return nil, 0
}

func cssEnd(t []rune, i int) bool { return i < len(t) && (t[i] == ')' || t[i] == ';') }

// cssUnescape removes backslashes before , ' " ( ) and white space.
func cssUnescape(t []rune) string {
	var b strings.Builder
	for i, c := range t {
		if c == '\\' && i+1 < len(t) && (strings.ContainsRune(`,'"()`, t[i+1]) || asciiSpace(t[i+1])) {
			continue
		}
		b.WriteRune(c)
	}
	return b.String()
}

func skipSpace(t []rune, i int) int {
	for i < len(t) && asciiSpace(t[i]) {
		i++
	}
	return i
}

func asciiSpace(c rune) bool {
	return c == ' ' || '\t' <= c && c <= '\r'
}

func lineEnd(c rune) bool {
	return c == '\n' || c == '\r' || c == 0x85 || c == 0x2028 || c == 0x2029
}

// foldPrefix compares ASCII letters without case; p is in small letters.
func foldPrefix(t []rune, p string) bool {
	if len(t) < len(p) {
		return false
	}
	for i := range len(p) {
		c := t[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != rune(p[i]) {
			return false
		}
	}
	return true
}
