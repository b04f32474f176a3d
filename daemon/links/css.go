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
	win := make([]rune, 0, cssWindow)
	for {
		for len(win) < cap(win) {
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
	for i := 0; i < len(t); {
		link, next := cssMatch(t, i)
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

// cssMatch matches the expression at i; next is where the search goes on, 0 for no match.
func cssMatch(t []rune, i int) (link []rune, next int) {
	p := 0
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
	if p < len(t) && (t[p] == '"' || t[p] == '\'') {
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
	tried := p // white space up to here is known not to end the link
	for k := p; k < len(t) && k-p <= cssLongest; k++ {
		if k >= tried {
			m := skipSpace(t, k)
			if cssEnd(t, m) {
				return t[p:k], m + 1
			}
			tried = m
		}
		if lineEnd(t[k]) {
			break
		}
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
