// Package javaprops reads and writes property lists in the text form of
// java.util.Properties, which 1.x uses for headers on disk (repository.md 4.1), for state,
// and inside messages (lcap-v3.md 3).
//
//	#comment
//	key=value
//	origId=TCP\:[192.0.2.7]\:9729
//
// The bytes are Latin-1. Logical lines, comments, separators and escapes are those of
// java.util.Properties. What is written is pure ASCII, one line for each property, sorted.
//
// Java text is a sequence of UTF-16 code units. In Go strings it is UTF-8; a surrogate
// without its partner keeps its own three bytes (ED A0..BF xx), so reading and writing lose
// nothing. A byte of a Go string that is no UTF-8 is written as the Latin-1 character of that
// number.
package javaprops

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// A SyntaxError is the only error of [Parse].
type SyntaxError struct {
	Line int    // natural line on which the logical line begins, from 1
	Msg  string // what is wrong, with the text
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("properties line %d: %s", e.Line, e.Msg)
}

// Parse reads a property list. A repeated key keeps its last value; a key without a separator
// has the value "". The only malformed input is a \u escape without four hex digits. Memory is
// proportional to len(b).
func Parse(b []byte) (map[string]string, error) {
	props := make(map[string]string)
	var logical []byte // reused; escapes still in it
	line := 1
	for len(b) > 0 {
		start := line
		var ok bool
		logical, b, line, ok = nextLine(logical[:0], b, line)
		if !ok {
			continue
		}
		key, value := split(logical)
		k, err := unescape(key, start)
		if err != nil {
			return nil, err
		}
		v, err := unescape(value, start)
		if err != nil {
			return nil, err
		}
		props[k] = v
	}
	return props, nil
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\f' }

func trimSpace(b []byte) []byte {
	for len(b) > 0 && isSpace(b[0]) {
		b = b[1:]
	}
	return b
}

// natural cuts the first natural line, without its end, off b.
func natural(b []byte) (line, rest []byte) {
	for i, c := range b {
		if c == '\n' {
			return b[:i], b[i+1:]
		}
		if c == '\r' {
			if i+1 < len(b) && b[i+1] == '\n' {
				return b[:i], b[i+2:]
			}
			return b[:i], b[i+1:]
		}
	}
	return b, nil
}

// nextLine appends the first logical line of b to dst. It reports false for a blank line or a
// comment. n counts natural lines.
func nextLine(dst, b []byte, n int) (logical, rest []byte, line int, ok bool) {
	text, rest := natural(b)
	n++
	text = trimSpace(text)
	if len(text) == 0 || text[0] == '#' || text[0] == '!' {
		return dst, rest, n, false
	}
	for {
		slashes := 0
		for slashes < len(text) && text[len(text)-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return append(dst, text...), rest, n, true
		}
		dst = append(dst, text[:len(text)-1]...)
		if len(rest) == 0 {
			// A backslash at the end of the input stands for nothing. In a line of its
			// own it makes an empty key, unless CRLF follows.
			return dst, rest, n, len(dst) > 0 || !bytes.HasSuffix(b, []byte("\r\n"))
		}
		if len(dst) == 0 {
			return dst, rest, n, false // nothing to continue: the next line begins anew
		}
		text, rest = natural(rest)
		n++
		text = trimSpace(text)
	}
}

// split cuts a logical line at the first unescaped '=', ':' or white space.
func split(b []byte) (key, value []byte) {
	i, escaped := 0, false
	for ; i < len(b); i++ {
		c := b[i]
		if !escaped && (c == '=' || c == ':' || isSpace(c)) {
			break
		}
		escaped = c == '\\' && !escaped
	}
	key, value = b[:i], trimSpace(b[i:])
	if len(value) > 0 && (value[0] == '=' || value[0] == ':') {
		value = trimSpace(value[1:])
	}
	return key, value
}

// unescape turns Latin-1 with escapes into Go's text.
func unescape(b []byte, line int) (string, error) {
	plain := true
	for _, c := range b {
		if c == '\\' || c >= utf8.RuneSelf {
			plain = false
			break
		}
	}
	if plain {
		return string(b), nil
	}
	out := make([]byte, 0, len(b))
	high := rune(-1) // a high surrogate that waits for its partner
	put := func(u rune) {
		if high >= 0 {
			if r := utf16.DecodeRune(high, u); r != utf8.RuneError {
				out = utf8.AppendRune(out, r)
				high = -1
				return
			}
			out = appendSurrogate(out, high)
			high = -1
		}
		switch {
		case 0xD800 <= u && u < 0xDC00:
			high = u
		case utf16.IsSurrogate(u):
			out = appendSurrogate(out, u)
		default:
			out = utf8.AppendRune(out, u)
		}
	}
	for i := 0; i < len(b); i++ {
		c := b[i]
		if c != '\\' || i+1 == len(b) {
			put(rune(c))
			continue
		}
		i++
		switch c = b[i]; c {
		case 't':
			put('\t')
		case 'n':
			put('\n')
		case 'r':
			put('\r')
		case 'f':
			put('\f')
		case 'u':
			digits := b[i+1 : min(i+5, len(b))]
			u, ok := hex4(digits)
			if !ok {
				return "", &SyntaxError{line, fmt.Sprintf("escape \\u%s has no four hex digits", strconv.QuoteToASCII(string(digits)))}
			}
			put(u)
			i += 4
		default:
			put(rune(c))
		}
	}
	if high >= 0 {
		out = appendSurrogate(out, high)
	}
	return string(out), nil
}

func hex4(b []byte) (rune, bool) {
	if len(b) != 4 {
		return 0, false
	}
	var u rune
	for _, c := range b {
		u <<= 4
		switch {
		case '0' <= c && c <= '9':
			u |= rune(c - '0')
		case 'a' <= c && c <= 'f':
			u |= rune(c - 'a' + 10)
		case 'A' <= c && c <= 'F':
			u |= rune(c - 'A' + 10)
		default:
			return 0, false
		}
	}
	return u, true
}

// appendSurrogate writes a lone surrogate in the three bytes that UTF-8 would give it.
func appendSurrogate(b []byte, u rune) []byte {
	return append(b, 0xE0|byte(u>>12), 0x80|byte(u>>6)&0x3F, 0x80|byte(u)&0x3F)
}

// Append writes comments, each as a line that begins with '#', and then props sorted by key.
// The result is pure ASCII.
func Append(dst []byte, comments []string, props map[string]string) []byte {
	for _, c := range comments {
		dst = append(dst, '#')
		dst = appendText(dst, c, comment)
		dst = append(dst, '\n')
	}
	for _, k := range slices.Sorted(maps.Keys(props)) {
		dst = appendText(dst, k, key)
		dst = append(dst, '=')
		dst = appendText(dst, props[k], value)
		dst = append(dst, '\n')
	}
	return dst
}

type place int

const (
	comment place = iota // line breaks become spaces, only non-ASCII is escaped
	key                  // every space is escaped
	value                // a leading space is escaped
)

func appendText(dst []byte, s string, p place) []byte {
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			var n int
			dst, n = appendRune(dst, s[i:])
			i += n
			continue
		}
		switch {
		case p == comment && (c == '\n' || c == '\r'):
			dst = append(dst, ' ')
		case p == comment && c >= ' ' && c < 0x7F:
			dst = append(dst, c)
		case c == ' ':
			if p == key || i == 0 {
				dst = append(dst, '\\')
			}
			dst = append(dst, ' ')
		case c == '\t':
			dst = append(dst, `\t`...)
		case c == '\n':
			dst = append(dst, `\n`...)
		case c == '\r':
			dst = append(dst, `\r`...)
		case c == '\f':
			dst = append(dst, `\f`...)
		case c == '\\', c == '=', c == ':', c == '#', c == '!':
			dst = append(dst, '\\', c)
		case c < ' ' || c > '~':
			dst = appendUnit(dst, rune(c))
		default:
			dst = append(dst, c)
		}
		i++
	}
	return dst
}

// appendRune escapes the first character of s and returns its length in s.
func appendRune(dst []byte, s string) ([]byte, int) {
	r, n := utf8.DecodeRuneInString(s)
	switch {
	case r != utf8.RuneError || n > 1:
	case len(s) >= 3 && s[0] == 0xED && s[1]&0xE0 == 0xA0 && s[2]&0xC0 == 0x80:
		r, n = 0xD000|rune(s[1]&0x3F)<<6|rune(s[2]&0x3F), 3
	default:
		r, n = rune(s[0]), 1
	}
	if r > 0xFFFF {
		high, low := utf16.EncodeRune(r)
		return appendUnit(appendUnit(dst, high), low), n
	}
	return appendUnit(dst, r), n
}

func appendUnit(dst []byte, u rune) []byte {
	const hex = "0123456789ABCDEF"
	return append(dst, '\\', 'u', hex[u>>12&15], hex[u>>8&15], hex[u>>4&15], hex[u&15])
}
