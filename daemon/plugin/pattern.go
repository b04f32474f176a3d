package plugin

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// maxPattern limits a pattern after its parameters are filled in.
const maxPattern = 1 << 20 // bytes

// ErrNotLinear marks a pattern that needs backtracking: look-ahead or a back-reference.
var ErrNotLinear = errors.New("needs backtracking, which this node does not do")

// A PatternError is a pattern that cannot be used.
type PatternError struct {
	Pattern string
	Err     error
}

func (e *PatternError) Error() string {
	p := e.Pattern
	if len(p) > 200 {
		p = p[:200] + "…"
	}
	return fmt.Sprintf("pattern %s: %v", p, e.Err)
}

func (e *PatternError) Unwrap() error { return e.Err }

// A pattern is a regular expression of a definition. It is searched for, not anchored.
type pattern struct {
	source string
	re     *regexp.Regexp
}

func (p *pattern) match(s string) bool { return p.re.MatchString(s) }

// compilePattern compiles the dialect of the classic node (plugins.md 8.4).
//
// Differences of meaning that remain: \b and \B look at ASCII letters only, where the
// classic node knows all letters; normalised URLs are ASCII.
func compilePattern(source string, ignoreCase bool) (*pattern, error) {
	if len(source) > maxPattern {
		return nil, &PatternError{source, fmt.Errorf("longer than %d bytes", maxPattern)}
	}
	t := translator{in: []rune(source)}
	t.flags.i = ignoreCase
	out, err := t.run()
	if err != nil {
		return nil, &PatternError{source, err}
	}
	re, err := regexp.Compile(out)
	if err != nil {
		return nil, &PatternError{source, err}
	}
	return &pattern{source: source, re: re}, nil
}

// A translator rewrites Perl 5 syntax into that of package regexp.
type translator struct {
	in    []rune
	pos   int
	flags struct{ i, m, s, x bool }
	out   strings.Builder

	depth, groups int
	total         int  // groups in the whole pattern
	atom          bool // something stands before that a quantifier may repeat
}

func (t *translator) run() (string, error) {
	// Inline flags count for the whole expression wherever they stand, and the meaning of
	// \2 depends on how many groups there are: both are found first.
	if err := t.scan(); err != nil {
		return "", err
	}
	for t.pos < len(t.in) {
		if err := t.next(); err != nil {
			return "", err
		}
	}
	if t.depth > 0 {
		return "", errors.New("unmatched (")
	}
	if t.flags.i {
		return "(?i:" + t.out.String() + ")", nil
	}
	return t.out.String(), nil
}

// scan finds inline flags and counts groups.
func (t *translator) scan() error {
	class := false
	for i := 0; i < len(t.in); i++ {
		switch c := t.in[i]; {
		case c == '\\':
			i++
		case class:
			if c == '[' && i+1 < len(t.in) && t.in[i+1] == ':' {
				if end := indexRunes(t.in[i:], ":]"); end > 0 {
					i += end + 1
				}
			} else if c == ']' {
				class = false
			}
		case c == '[':
			class = true
			if i+1 < len(t.in) && t.in[i+1] == '^' {
				i++
			}
			if i+1 < len(t.in) && t.in[i+1] == ']' {
				i++
			}
		case c == '(':
			if i+1 >= len(t.in) || t.in[i+1] != '?' {
				t.total++
				continue
			}
			if n := flagGroup(t.in[i:]); n > 0 {
				for _, f := range t.in[i+2 : i+n-1] {
					switch f {
					case 'i':
						t.flags.i = true
					case 'm':
						t.flags.m = true
					case 's':
						t.flags.s = true
					case 'x':
						t.flags.x = true
					}
				}
			} else if i+2 < len(t.in) && t.in[i+2] == '#' {
				for i < len(t.in) && t.in[i] != ')' {
					i++
				}
			}
		}
	}
	return nil
}

// flagGroup is the length of "(?imsx)" at the beginning of s, or 0.
func flagGroup(s []rune) int {
	n := 2
	for n < len(s) && strings.ContainsRune("imsxgo", s[n]) {
		n++
	}
	if n > 2 && n < len(s) && s[n] == ')' {
		return n + 1
	}
	return 0
}

// maxClassName limits how far the end of a [:name:] is looked for, characters.
const maxClassName = 40

func indexRunes(s []rune, sub string) int {
	want := []rune(sub)
	for i := 0; i+len(want) <= min(len(s), maxClassName); i++ {
		if slices.Equal(s[i:i+len(want)], want) {
			return i
		}
	}
	return -1
}

func (t *translator) peek(n int) rune {
	if t.pos+n < len(t.in) {
		return t.in[t.pos+n]
	}
	return -1
}

func (t *translator) emit(s string) {
	t.out.WriteString(s)
	t.atom = true
}

func (t *translator) next() error {
	c := t.in[t.pos]
	t.pos++
	switch c {
	case '\\':
		return t.escape()
	case '[':
		return t.class()
	case '(':
		return t.open()
	case ')':
		if t.depth == 0 {
			return errors.New("unmatched )")
		}
		t.depth--
		t.emit(")")
	case '|':
		t.out.WriteByte('|')
		t.atom = false
	case '.':
		if t.flags.s {
			t.emit("(?s:.)")
		} else {
			t.emit(".")
		}
	case '^':
		if t.flags.m {
			t.emit("(?m:^)")
		} else {
			t.emit(`\A`)
		}
	case '$':
		t.end()
	case '*', '+', '?':
		return t.quantify(string(c))
	case '{':
		if q := t.braces(); q != "" {
			return t.quantify(q)
		}
		t.emit(`\{`)
	case '#':
		if t.flags.x {
			for t.pos < len(t.in) && t.in[t.pos] != '\n' {
				t.pos++
			}
			return nil
		}
		t.emit("#")
	case ' ', '\t', '\n', '\r', '\f':
		if !t.flags.x {
			t.emit(literal(c))
		}
	default:
		t.emit(literal(c))
	}
	return nil
}

func literal(c rune) string { return regexp.QuoteMeta(string(c)) }

// end is $: at the end, and before a final newline.
func (t *translator) end() {
	if t.flags.m {
		t.emit("(?m:$)")
	} else {
		t.emit(`(?:\n?\z)`)
	}
}

// braces reads "n}", "n,}" or "n,m}" after a brace; "" if the brace is literal.
func (t *translator) braces() string {
	for i := t.pos; i < len(t.in); i++ {
		c := t.in[i]
		if c == '}' {
			q := string(t.in[t.pos-1 : i+1])
			if q[1] < '0' || q[1] > '9' || strings.Count(q, ",") > 1 {
				return ""
			}
			t.pos = i + 1
			return q
		}
		if c != ',' && (c < '0' || c > '9') {
			return ""
		}
	}
	return ""
}

func (t *translator) quantify(q string) error {
	if !t.atom {
		return fmt.Errorf("%s follows nothing", q)
	}
	t.out.WriteString(q)
	if t.peek(0) == '?' {
		t.pos++
		t.out.WriteByte('?')
	}
	t.atom = false // nested quantifiers are errors
	return nil
}

func (t *translator) open() error {
	if t.peek(0) != '?' {
		t.groups++
		t.depth++
		t.out.WriteByte('(')
		t.atom = false
		return nil
	}
	switch t.peek(1) {
	case ':':
		t.pos += 2
		t.depth++
		t.out.WriteString("(?:")
		t.atom = false
		return nil
	case '#':
		for t.pos < len(t.in) && t.in[t.pos] != ')' {
			t.pos++
		}
		if t.pos == len(t.in) {
			return errors.New("unmatched (")
		}
		t.pos++
		return nil
	case '=', '!':
		return fmt.Errorf("look-ahead (?%c: %w", t.peek(1), ErrNotLinear)
	}
	if n := flagGroup(t.in[t.pos-1:]); n > 0 {
		t.pos += n - 1
		return nil
	}
	return fmt.Errorf("unknown group (?%s", string(t.in[min(t.pos+1, len(t.in)):min(t.pos+2, len(t.in))]))
}

const (
	wordSet  = `\p{L}\p{Nd}_`
	spaceSet = `\t-\r `
)

func (t *translator) escape() error {
	if t.pos >= len(t.in) {
		return errors.New(`trailing \`)
	}
	c := t.in[t.pos]
	t.pos++
	switch c {
	case 'd':
		t.emit(`\d`)
	case 'D':
		t.emit(`\D`)
	case 'w':
		t.emit(`[` + wordSet + `]`)
	case 'W':
		t.emit(`[^` + wordSet + `]`)
	case 's':
		t.emit(`[` + spaceSet + `]`)
	case 'S':
		t.emit(`[^` + spaceSet + `]`)
	case 'b':
		t.emit(`\b`)
	case 'B':
		t.emit(`\B`)
	case 'A':
		t.emit(`\A`)
	case 'Z':
		t.emit(`(?:\n?\z)`)
	case 'z':
		t.emit(`\z`)
	case 'G':
		return errors.New(`\G has no meaning here`)
	default:
		if c >= '1' && c <= '9' {
			n := int(c - '0')
			for k := 0; t.peek(k) >= '0' && t.peek(k) <= '9' && n < 1000; k++ {
				n = n*10 + int(t.peek(k)-'0')
			}
			if n < 10 || n <= t.total {
				if n > t.total {
					return fmt.Errorf(`\%d refers to a missing group`, n)
				}
				return fmt.Errorf(`back-reference \%d: %w`, n, ErrNotLinear)
			}
		}
		r, err := t.char(c)
		if err != nil {
			return err
		}
		t.emit(literal(r))
	}
	return nil
}

// char is the character that an escape with the letter c, already read, stands for.
func (t *translator) char(c rune) (rune, error) {
	switch c {
	case 't':
		return '\t', nil
	case 'n':
		return '\n', nil
	case 'r':
		return '\r', nil
	case 'f':
		return '\f', nil
	case 'e':
		return 0x1b, nil
	case 'a':
		return 7, nil
	case 'c':
		if t.pos >= len(t.in) {
			return 0, errors.New(`\c at the end`)
		}
		x := unicode.ToUpper(t.in[t.pos])
		t.pos++
		return x ^ 64, nil
	case 'x':
		n := 0
		for n < 2 && strings.ContainsRune("0123456789abcdefABCDEF", t.peek(n)) {
			n++
		}
		v, _ := strconv.ParseUint("0"+string(t.in[t.pos:t.pos+n]), 16, 16)
		t.pos += n
		return rune(v), nil
	}
	if c >= '0' && c <= '7' {
		v := c - '0'
		for k := 0; k < 2 && t.peek(0) >= '0' && t.peek(0) <= '7'; k++ {
			v = v*8 + t.peek(0) - '0'
			t.pos++
		}
		return v, nil
	}
	return c, nil
}

// class translates [...], after the bracket.
func (t *translator) class() error {
	var b, negated strings.Builder // negated: complements of sets, which stand beside b
	invert := false
	if t.peek(0) == '^' {
		invert = true
		t.pos++
	}
	lo := rune(-1) // a character that may begin a range
	for first := true; ; first = false {
		if t.pos >= len(t.in) {
			return errors.New("unmatched [")
		}
		c := t.in[t.pos]
		t.pos++
		if c == ']' && !first {
			break
		}
		if c == '[' && t.peek(0) == ':' {
			if end := indexRunes(t.in[t.pos:], ":]"); end > 0 {
				name := string(t.in[t.pos+1 : t.pos+end])
				t.pos += end + 2
				set, ok := posixClass(name)
				if !ok {
					return fmt.Errorf("unknown class [:%s:]", name)
				}
				b.WriteString(set)
				lo = -1
				continue
			}
		}
		if c == '\\' {
			if t.pos >= len(t.in) {
				return errors.New("unmatched [")
			}
			c = t.in[t.pos]
			t.pos++
			set := ""
			switch c {
			case 'd':
				set = `\d`
			case 'D':
				set = `\D`
			case 'w':
				set = wordSet
			case 's':
				set = spaceSet
			case 'S':
				set = `\x{0}-\x{8}\x{e}-\x{1f}!-\x{10ffff}`
			case 'W':
				negated.WriteString(`|[^` + wordSet + `]`)
				lo = -1
				continue
			}
			if set != "" {
				b.WriteString(set)
				lo = -1
				continue
			}
			if c == 'b' {
				c = '\b'
			} else {
				var err error
				if c, err = t.char(c); err != nil {
					return err
				}
			}
		} else if c == '-' && lo >= 0 && t.peek(0) != ']' && t.peek(0) >= 0 {
			hi := t.in[t.pos]
			t.pos++
			switch {
			case hi == '[' && t.peek(0) == ':':
				b.WriteString(`\-`)
				t.pos--
				lo = -1
				continue
			case hi == '\\':
				if t.pos >= len(t.in) {
					return errors.New("unmatched [")
				}
				x := t.in[t.pos]
				if strings.ContainsRune("dDwWsS", x) {
					b.WriteString(`\-`)
					t.pos--
					lo = -1
					continue
				}
				t.pos++
				var err error
				if hi, err = t.char(x); err != nil {
					return err
				}
			}
			if hi < lo {
				return fmt.Errorf("invalid range %c-%c", lo, hi)
			}
			fmt.Fprintf(&b, `-\x{%x}`, hi)
			lo = -1
			continue
		}
		fmt.Fprintf(&b, `\x{%x}`, c)
		lo = c
	}
	switch {
	case negated.Len() == 0 && invert:
		t.emit("[^" + b.String() + "]")
	case negated.Len() == 0:
		t.emit("[" + b.String() + "]")
	case invert:
		// Not (W or b) = word characters that are not in b; an intersection has no syntax.
		return errors.New(`\W in a negated class is not supported`)
	case b.Len() == 0:
		t.emit("(?:" + negated.String()[1:] + ")")
	default:
		t.emit("(?:[" + b.String() + "]" + negated.String() + ")")
	}
	return nil
}

func posixClass(name string) (string, bool) {
	not := ""
	if rest, ok := strings.CutPrefix(name, "^"); ok {
		not, name = "^", rest
	}
	switch name {
	case "alpha", "digit", "alnum", "upper", "lower", "space", "punct", "print", "graph", "cntrl", "xdigit", "blank", "ascii", "word":
		return "[:" + not + name + ":]", true
	}
	return "", false
}
