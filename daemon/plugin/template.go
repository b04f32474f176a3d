package plugin

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

// A template is a format with arguments (plugins.md 7): "format", arg1, arg2. The format
// stands between the first and the last double quote. Without arguments it is literal.
type template struct {
	source string
	format string
	args   []arg
}

type arg struct {
	fn, name string // fn "": the parameter itself
	text     string
}

var argSyntax = regexp.MustCompile(`^(?:(\w+)\()?(\w+)(\))?$`)

func parseTemplate(s string) template {
	t := template{source: s, format: s}
	first, last := strings.IndexByte(s, '"'), strings.LastIndexByte(s, '"')
	if first < 0 || first == last {
		return t
	}
	t.format = s[first+1 : last]
	for _, a := range strings.Split(s[last+1:], ",") {
		if a = strings.TrimSpace(a); a == "" {
			continue
		}
		x := arg{text: a}
		if m := argSyntax.FindStringSubmatch(a); m != nil && (m[1] == "") == (m[3] == "") {
			x.fn, x.name = m[1], m[2]
		}
		t.args = append(t.args, x)
	}
	return t
}

// functions on one text argument (plugins.md 7.3).
func call(fn, s string) (any, error) {
	switch fn {
	case "url_host":
		return splitURL(s).host, nil
	case "url_path":
		return splitURL(s).path, nil
	case "add_www":
		u := splitURL(s)
		if !strings.HasPrefix(strings.ToLower(u.host), "www.") {
			u.host = "www." + u.host
		}
		return u.String(), nil
	case "del_www":
		u := splitURL(s)
		if strings.HasPrefix(strings.ToLower(u.host), "www.") {
			u.host = u.host[4:]
		}
		return u.String(), nil
	case "to_http":
		if rest, ok := strings.CutPrefix(s, "https:"); ok {
			return "http:" + rest, nil
		}
		return s, nil
	case "to_https":
		if rest, ok := strings.CutPrefix(s, "http:"); ok {
			return "https:" + rest, nil
		}
		return s, nil
	case "url_encode":
		return formEncode(s), nil
	case "url_decode":
		return url.QueryUnescape(s)
	case "range_min", "range_max":
		v, err := parseRange(TypeRange, s)
		if err != nil {
			return nil, err
		}
		if r := v.(textRange); fn == "range_min" {
			return r.min, nil
		} else {
			return r.max, nil
		}
	case "num_range_min", "num_range_max":
		v, err := parseRange(TypeNumRange, s)
		if err != nil {
			return nil, err
		}
		r, ok := v.(numRange)
		if !ok {
			return nil, fmt.Errorf("%q: want a range of numbers", s)
		}
		if fn == "num_range_min" {
			return r.min, nil
		}
		return r.max, nil
	}
	return nil, fmt.Errorf("unknown function %s", fn)
}

func knownFunction(fn string) bool {
	switch fn {
	case "url_host", "url_path", "add_www", "del_www", "to_http", "to_https", "url_encode", "url_decode",
		"range_min", "range_max", "num_range_min", "num_range_max":
		return true
	}
	return false
}

// formEncode is the form encoding of Java: letters, digits, ".-*_" stay, blank is "+".
func formEncode(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte(".-*_", c) >= 0:
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

var errMissing = errors.New("a parameter has no value")

// values gives the arguments of a template; errMissing when a parameter is not set.
func (t template) values(params map[string]any) ([]any, error) {
	out := make([]any, len(t.args))
	for i, a := range t.args {
		v, ok := params[a.name]
		if !ok {
			return nil, fmt.Errorf("%s: %w", a.name, errMissing)
		}
		if a.fn != "" {
			s, ok := v.(string)
			if !ok {
				return nil, fmt.Errorf("%s: the parameter is not text", a.text)
			}
			var err error
			if v, err = call(a.fn, s); err != nil {
				return nil, fmt.Errorf("%s: %w", a.text, err)
			}
		}
		out[i] = v
	}
	return out, nil
}

// urls evaluates in URL context: sets and numeric ranges expand, the first of them varying
// fastest.
func (t template) urls(params map[string]any) ([]string, error) {
	if len(t.args) == 0 {
		return []string{t.format}, nil
	}
	vals, err := t.values(params)
	if err != nil {
		return nil, err
	}
	choices := make([][]any, len(vals))
	total := 1
	for i, v := range vals {
		switch v := v.(type) {
		case set:
			for _, s := range v {
				choices[i] = append(choices[i], s)
			}
		case numRange:
			for n := v.min; n <= v.max && n-v.min <= 100; n++ {
				choices[i] = append(choices[i], n)
			}
		case textRange, userPass:
			return nil, fmt.Errorf("%s: not allowed in a URL", t.args[i].text)
		default:
			choices[i] = []any{v}
		}
		if total *= len(choices[i]); total > maxExpansion/16 {
			return nil, fmt.Errorf("%s: more than %d URLs", t.source, maxExpansion/16)
		}
	}
	out := make([]string, 0, total)
	size := 0
	pick := make([]any, len(vals))
	for n := range total {
		for i, rest := 0, n; i < len(choices); i++ {
			pick[i] = choices[i][rest%len(choices[i])]
			rest /= len(choices[i])
		}
		s, err := sprintf(t.format, pick)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.source, err)
		}
		if size += len(s); size > 16*maxExpansion {
			return nil, fmt.Errorf("%s: more than %d bytes of URLs", t.source, 16*maxExpansion)
		}
		out = append(out, s)
	}
	return out, nil
}

// A cond is a range that the first group of a pattern must lie in (plugins.md 8.3).
type cond struct {
	num      bool
	min, max int64
	lo, hi   string
}

// regexp evaluates in pattern context. ranges are the range arguments met.
func (t template) regexp(params map[string]any) (re string, ranges []cond, err error) {
	if len(t.args) == 0 {
		return t.format, nil, nil
	}
	vals, err := t.values(params)
	if err != nil {
		return "", nil, err
	}
	for i, v := range vals {
		switch v := v.(type) {
		case string:
			vals[i] = quotePattern(v)
		case set:
			var b strings.Builder
			for n, s := range v {
				if n > 0 {
					b.WriteByte('|')
				}
				b.WriteString(quotePattern(s))
			}
			vals[i] = "(?:" + b.String() + ")"
		case textRange:
			vals[i] = "(.*)"
			ranges = append(ranges, cond{lo: strings.ToLower(v.min), hi: strings.ToLower(v.max)})
		case numRange:
			vals[i] = `(\d+)`
			ranges = append(ranges, cond{num: true, min: v.min, max: v.max})
		case userPass:
			return "", nil, fmt.Errorf("%s: not allowed in a pattern", t.args[i].text)
		}
	}
	re, err = sprintf(t.format, vals)
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", t.source, err)
	}
	return re, ranges, nil
}

// quotePattern makes text literal; a blank then matches its three forms in URLs, in a
// group that counts (plugins.md 7.4).
func quotePattern(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == ' ':
			b.WriteString(`( |\+|%20)`)
			continue
		case r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r):
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// display evaluates for people.
func (t template) display(params map[string]any) (string, error) {
	if len(t.args) == 0 {
		return t.format, nil
	}
	vals := make([]any, len(t.args))
	for i, a := range t.args {
		one := template{args: []arg{a}}
		v, err := one.values(params)
		if errors.Is(err, errMissing) {
			vals[i] = "(null)"
			continue
		}
		if err != nil {
			return "", err
		}
		switch v := v[0].(type) {
		case set:
			vals[i] = strings.Join(v, ", ")
		case textRange:
			vals[i] = v.min + "-" + v.max
		case numRange:
			vals[i] = strconv.FormatInt(v.min, 10) + "-" + strconv.FormatInt(v.max, 10)
		case userPass:
			vals[i] = v.user
		default:
			vals[i] = v
		}
	}
	s, err := sprintf(t.format, vals)
	if err != nil {
		return "", fmt.Errorf("%s: %w", t.source, err)
	}
	return s, nil
}

// sprintf is the C-like formatter of the classic node (plugins.md 7.2):
//
//	%[n$][-+ 0#'][width][.precision][hlL]conv   conv: s d i x X o c %
//
// Arguments are string, int32, int64 or bool.
func sprintf(format string, args []any) (string, error) {
	var out strings.Builder
	next := 0
	take := func() (any, error) {
		if next >= len(args) {
			return nil, errors.New("more conversions than arguments")
		}
		next++
		return args[next-1], nil
	}
	for i := 0; i < len(format); {
		if out.Len() > maxExpansion {
			return "", fmt.Errorf("result is longer than %d bytes", maxExpansion)
		}
		c := format[i]
		i++
		if c != '%' {
			out.WriteByte(c)
			continue
		}
		var d directive
		d.precision = -1
		number := func() (int, bool) {
			start := i
			for i < len(format) && format[i] >= '0' && format[i] <= '9' {
				i++
			}
			n, err := strconv.Atoi(format[start:i])
			return n, err == nil && n <= 10000
		}
		index := -1
		if mark := i; i < len(format) && format[i] >= '1' && format[i] <= '9' {
			n, ok := number()
			if ok && i < len(format) && format[i] == '$' {
				i++
				index = n - 1
			} else {
				i = mark
			}
		}
		for i < len(format) && strings.IndexByte("-+ 0#'", format[i]) >= 0 {
			d.flag(format[i])
			i++
		}
		size := func(what string) (int, error) {
			if i < len(format) && format[i] == '*' {
				i++
				v, err := take()
				if err != nil {
					return 0, err
				}
				n, ok := v.(int32)
				if !ok || n < -10000 || n > 10000 {
					return 0, fmt.Errorf("%s *: want an integer argument", what)
				}
				return int(n), nil
			}
			if i < len(format) && format[i] >= '0' && format[i] <= '9' {
				n, ok := number()
				if !ok {
					return 0, fmt.Errorf("%s is too great", what)
				}
				return n, nil
			}
			return 0, nil
		}
		var err error
		if d.width, err = size("width"); err != nil {
			return "", err
		}
		if d.width < 0 {
			d.left, d.width = true, -d.width
		}
		if i < len(format) && format[i] == '.' {
			i++
			if d.precision, err = size("precision"); err != nil {
				return "", err
			}
		}
		if i < len(format) && strings.IndexByte("hlL", format[i]) >= 0 {
			d.length = format[i]
			i++
		}
		if i >= len(format) {
			return "", errors.New("% at the end of the format")
		}
		d.conv = format[i]
		i++
		if d.conv == '%' {
			out.WriteByte('%')
			continue
		}
		if strings.IndexByte("sdixXoc", d.conv) < 0 {
			return "", fmt.Errorf("unknown conversion %%%c", d.conv)
		}
		var v any
		if index >= 0 {
			if index >= len(args) {
				return "", errors.New("more conversions than arguments")
			}
			v = args[index]
		} else if v, err = take(); err != nil {
			return "", err
		}
		s, err := d.format(v)
		if err != nil {
			return "", err
		}
		out.WriteString(s)
	}
	return out.String(), nil
}

type directive struct {
	left, plus, space, zero, alt bool
	width, precision             int
	length, conv                 byte
}

func (d *directive) flag(c byte) {
	switch c {
	case '-':
		d.left = true
	case '+':
		d.plus = true
	case ' ':
		d.space = true
	case '0':
		d.zero = true
	case '#':
		d.alt = true
	}
}

func (d *directive) format(v any) (string, error) {
	switch x := v.(type) {
	case bool:
		if d.conv != 's' {
			return "", fmt.Errorf("%%%c of a boolean", d.conv)
		}
		return strconv.FormatBool(x), nil
	case string:
		switch d.conv {
		case 's':
			if r := []rune(x); d.precision >= 0 && len(r) > d.precision {
				x = string(r[:d.precision])
			}
			return d.pad("", x), nil
		case 'c':
			return "", errors.New("%c of text")
		}
		bits := 32
		if d.length == 'l' || d.length == 'L' {
			bits = 64
		}
		n, err := strconv.ParseInt(x, 10, bits)
		if err != nil {
			return "", fmt.Errorf("%%%c of %q, which is not a number", d.conv, x)
		}
		return d.integer(n, bits), nil
	case int32:
		return d.number(int64(x))
	case int64:
		return d.number(x)
	}
	return "", fmt.Errorf("%%%c of a %T", d.conv, v)
}

func (d *directive) number(n int64) (string, error) {
	switch {
	case d.conv == 's':
		return "", fmt.Errorf("%%s of the number %d; use %%d", n)
	case d.conv == 'c':
		return d.pad("", string(rune(n&0xffff))), nil
	case d.length == 'h':
		return d.integer(int64(int16(n)), 16), nil
	case d.length == 'l', d.length == 'L':
		return d.integer(n, 64), nil
	}
	return d.integer(toInt32(n), 32), nil
}

func (d *directive) integer(n int64, bits int) string {
	var prefix, digits string
	switch d.conv {
	case 'd', 'i':
		digits = strconv.FormatInt(n, 10)
		switch {
		case n < 0:
			prefix, digits = "-", digits[1:]
		case d.plus:
			prefix = "+"
		case d.space:
			prefix = " "
		}
	default:
		u := uint64(n)
		if bits < 64 {
			u &= 1<<bits - 1
		}
		switch d.conv {
		case 'o':
			digits = strconv.FormatUint(u, 8)
			if d.alt {
				prefix = "0"
			}
		default:
			digits = strconv.FormatUint(u, 16)
			if d.alt {
				prefix = "0x"
			}
			if d.conv == 'X' {
				prefix, digits = strings.ToUpper(prefix), strings.ToUpper(digits)
			}
		}
	}
	if n := d.precision - len(digits); n > 0 {
		digits = strings.Repeat("0", n) + digits
	}
	if n := d.width - len(prefix) - len(digits); d.zero && !d.left && d.precision < 0 && n > 0 {
		digits = strings.Repeat("0", n) + digits
	}
	return d.pad(prefix, digits)
}

func (d *directive) pad(prefix, s string) string {
	s = prefix + s
	n := d.width - len([]rune(s))
	switch {
	case n <= 0:
		return s
	case d.left:
		return s + strings.Repeat(" ", n)
	}
	return strings.Repeat(" ", n) + s
}
