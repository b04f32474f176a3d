package lockss

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// AUID names an archival unit on every node alike (lcap-v3.md 4.8, config.md 4.3):
//
//	plugin id with '.' replaced by '|'  &  key~value  &  key~value …
//
// with the definitional parameters sorted by key and each key and value in the form of
// [EncodeKey]. A unit without parameters ends in '&'.
type AUID string

// NewAUID returns the id of the unit of pluginID ("org.example.Plugin") with these
// definitional parameters.
func NewAUID(pluginID string, defParams map[string]string) AUID {
	var b strings.Builder
	b.WriteString(strings.ReplaceAll(pluginID, ".", "|"))
	b.WriteByte('&')
	for i, k := range slices.SortedFunc(maps.Keys(defParams), compareUnits) {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(EncodeKey(k))
		b.WriteByte('~')
		b.WriteString(EncodeKey(defParams[k]))
	}
	return AUID(b.String())
}

// PluginKey returns the plugin's part, with '|': "org|example|Plugin".
func (a AUID) PluginKey() string {
	key, _, _ := strings.Cut(string(a), "&")
	return key
}

// PluginID returns the plugin's id, with '.': "org.example.Plugin".
func (a AUID) PluginID() string {
	return strings.ReplaceAll(a.PluginKey(), "|", ".")
}

// Params returns the definitional parameters decoded. It fails when a parameter lacks its
// '~' or an escape is broken.
func (a AUID) Params() (map[string]string, error) {
	params := make(map[string]string)
	_, rest, _ := strings.Cut(string(a), "&")
	if rest == "" {
		return params, nil
	}
	for part := range strings.SplitSeq(rest, "&") {
		k, v, ok := strings.Cut(part, "~")
		if !ok {
			return nil, fmt.Errorf("au id %q: %q is not key~value", a, part)
		}
		key, err := decodeKey(k)
		if err != nil {
			return nil, fmt.Errorf("au id %q: %w", a, err)
		}
		value, err := decodeKey(v)
		if err != nil {
			return nil, fmt.Errorf("au id %q: %w", a, err)
		}
		params[key] = value
	}
	return params, nil
}

// EncodeKey writes a key or value of an AU id: letters, digits, '-', '_' and '*' stay, a
// space becomes '+', every other byte of the UTF-8 form '%' and two upper-case hex digits.
func EncodeKey(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '*':
			b.WriteByte(c)
		case c == ' ':
			b.WriteByte('+')
		default:
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
	return b.String()
}

// decodeKey undoes EncodeKey; hex digits may have either case.
func decodeKey(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '+':
			b.WriteByte(' ')
		case '%':
			if i+2 >= len(s) {
				return "", fmt.Errorf("%q ends inside an escape", s)
			}
			hi, lo := unhex(s[i+1]), unhex(s[i+2])
			if hi < 0 || lo < 0 {
				return "", fmt.Errorf("%q: %q is not an escape", s, s[i:i+3])
			}
			b.WriteByte(byte(hi<<4 | lo))
			i += 2
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), nil
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// CompareURL orders URLs canonically (lcap-v3.md 5.4, repository.md 9): UTF-16 code unit by
// code unit, '/' before every other character, a prefix before its extensions. The result is
// negative, zero or positive.
func CompareURL(a, b string) int { return compare(a, b, slashLowest) }

// compareUnits is the order of Java's String.compareTo.
func compareUnits(a, b string) int { return compare(a, b, plainUnit) }

func plainUnit(u uint16) int { return int(u) }

func slashLowest(u uint16) int {
	if u == '/' {
		return -1
	}
	return int(u)
}

func compare(a, b string, rank func(uint16) int) int {
	i, n := 0, min(len(a), len(b))
	for i < n && a[i] == b[i] {
		i++
	}
	if i == len(a) && i == len(b) {
		return 0
	}
	// A character begins where the bytes differ, or a little before.
	for i > 0 && (i < len(a) && !utf8.RuneStart(a[i]) || i < len(b) && !utf8.RuneStart(b[i])) {
		i--
	}
	ua, ub := units{s: a[i:]}, units{s: b[i:]}
	for {
		x, okA := ua.next()
		y, okB := ub.next()
		switch {
		case !okA && !okB:
			return 0
		case !okA:
			return -1
		case !okB:
			return 1
		case x != y:
			return rank(x) - rank(y)
		}
	}
}

// units gives the UTF-16 code units of a string. A byte that is no UTF-8 counts as the
// character of that number, as Java reads Latin-1.
type units struct {
	s   string
	low uint16 // second half of a pair, 0 if none is due
}

func (u *units) next() (uint16, bool) {
	if u.low != 0 {
		low := u.low
		u.low = 0
		return low, true
	}
	if u.s == "" {
		return 0, false
	}
	if c := u.s[0]; c < utf8.RuneSelf {
		u.s = u.s[1:]
		return uint16(c), true
	}
	r, n := utf8.DecodeRuneInString(u.s)
	switch {
	case r != utf8.RuneError || n > 1:
	case len(u.s) >= 3 && u.s[0] == 0xED && u.s[1]&0xE0 == 0xA0 && u.s[2]&0xC0 == 0x80:
		r, n = 0xD000|rune(u.s[1]&0x3F)<<6|rune(u.s[2]&0x3F), 3 // a surrogate on its own
	default:
		r, n = rune(u.s[0]), 1
	}
	u.s = u.s[n:]
	if r > 0xFFFF {
		high, low := utf16.EncodeRune(r)
		u.low = uint16(low)
		return uint16(high), true
	}
	return uint16(r), true
}
