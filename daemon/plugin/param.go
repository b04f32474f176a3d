package plugin

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf16"

	"armarium/daemon/lockss"
)

// The types of parameters (plugins.md 4.2).
const (
	TypeString       = 1
	TypeInt          = 2
	TypeURL          = 3
	TypeYear         = 4
	TypeBoolean      = 5
	TypePosInt       = 6
	TypeRange        = 7
	TypeNumRange     = 8
	TypeSet          = 9
	TypeUserPasswd   = 10
	TypeLong         = 11
	TypeTimeInterval = 12
)

// A Param describes one parameter of a plugin.
type Param struct {
	Key         string
	Display     string
	Description string
	Type        int
	Size        int // width of an input field
	// Definitional parameters make the identity of an AU.
	Definitional bool
	// DefaultOnly: a value in the title list is only a default, not part of the AU's configuration.
	DefaultOnly bool
	// Automatic parameters are known to every plugin without being declared (plugins.md 4.3).
	Automatic bool
	// Derived parameters are computed from others and never configured.
	Derived bool
}

// The values of parameters that templates see: string, int32, int64, bool, textRange,
// numRange, set, userPass.
type (
	textRange struct{ min, max string }
	numRange  struct{ min, max int64 }
	set       []string
	userPass  struct{ user, pass string }
)

// maxSet is the greatest number of elements of a set (type 9).
const maxSet = 10000

// maxExpansion limits what a template may become: text or number of URLs.
const maxExpansion = 1 << 20

// parseParam reads a configured value by its type. All failures make the configuration of
// the AU invalid.
func parseParam(typ int, s string) (any, error) {
	switch typ {
	case TypeString:
		if s == "" {
			return nil, errors.New("must not be empty")
		}
		return s, nil
	case TypeInt, TypePosInt:
		n, err := strconv.ParseInt(s, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("%q: want an integer", s)
		}
		if typ == TypePosInt && n < 0 {
			return nil, fmt.Errorf("%q: want an integer of 0 or more", s)
		}
		return int32(n), nil
	case TypeURL:
		return parseURLParam(s)
	case TypeYear:
		if n, err := strconv.ParseUint(s, 10, 31); err == nil && (len(s) == 4 || s == "0") {
			return int32(n), nil
		}
		return nil, fmt.Errorf("%q: want a year of four digits, or 0", s)
	case TypeBoolean:
		switch strings.ToLower(s) {
		case "true", "yes", "on", "1":
			return true, nil
		case "false", "no", "off", "0":
			return false, nil
		}
		return nil, fmt.Errorf("%q: want true or false", s)
	case TypeRange, TypeNumRange:
		return parseRange(typ, s)
	case TypeSet:
		return parseSet(s)
	case TypeUserPasswd:
		user, pass, ok := strings.Cut(s, ":")
		if !ok || user == "" || pass == "" || strings.Contains(pass, ":") {
			return nil, errors.New("want user:password")
		}
		return userPass{user, pass}, nil
	case TypeLong:
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%q: want an integer", s)
		}
		return n, nil
	case TypeTimeInterval:
		if strings.ContainsAny(s, " \t") {
			return nil, fmt.Errorf("%q: want an interval such as 2w, without blanks", s)
		}
		d, err := lockss.ParseInterval(s)
		if err != nil {
			return nil, err
		}
		return d.Milliseconds(), nil
	}
	return nil, fmt.Errorf("unknown parameter type %d", typ)
}

func parseURLParam(s string) (any, error) {
	scheme, rest, ok := strings.Cut(s, ":")
	lower := strings.ToLower(scheme)
	switch lower {
	case "http", "https", "ftp", "file", "jar", "mailto":
		if ok {
			return lower + ":" + rest, nil
		}
	}
	return nil, fmt.Errorf("%q: want an absolute URL, such as http://www.example.com/", s)
}

func parseRange(typ int, s string) (any, error) {
	var parts []string
	for _, p := range strings.Split(s, "-") {
		if p = strings.TrimSpace(p); p != "" {
			parts = append(parts, p)
		}
	}
	if len(parts) == 1 && !strings.Contains(s, "-") {
		parts = append(parts, parts[0])
	}
	if len(parts) < 2 {
		return nil, fmt.Errorf("%q: want a range such as 1-10", s)
	}
	lo, hi := parts[0], parts[1]
	if typ == TypeNumRange {
		a, err1 := strconv.ParseInt(lo, 10, 64)
		b, err2 := strconv.ParseInt(hi, 10, 64)
		if err1 == nil && err2 == nil {
			if a > b {
				return nil, fmt.Errorf("%q: the first number is greater than the second", s)
			}
			return numRange{a, b}, nil
		}
	}
	if compareText(lo, hi) > 0 {
		return nil, fmt.Errorf("%q: the first part sorts after the second (ranges of this kind compare as text)", s)
	}
	return textRange{lo, hi}, nil
}

// parseSet reads a set; {n-m} as a whole element stands for its numbers.
func parseSet(s string) (any, error) {
	out := set{}
	for _, e := range strings.Split(s, ",") {
		if e = strings.TrimSpace(e); e == "" {
			continue
		}
		lo, hi, ok := braceRange(e)
		if !ok {
			out = append(out, e)
		} else if hi >= lo && hi-lo >= maxSet {
			return nil, fmt.Errorf("%q: more than %d elements", e, maxSet)
		} else {
			for n := lo; n <= hi; n++ {
				out = append(out, strconv.FormatInt(n, 10))
			}
		}
		if len(out) > maxSet {
			return nil, fmt.Errorf("a set of more than %d elements", maxSet)
		}
	}
	return out, nil
}

func braceRange(e string) (lo, hi int64, ok bool) {
	if !strings.HasPrefix(e, "{") || !strings.HasSuffix(e, "}") || len(e) < 2 {
		return 0, 0, false
	}
	a, b, ok := strings.Cut(e[1:len(e)-1], "-")
	if !ok {
		return 0, 0, false
	}
	x, err1 := strconv.ParseUint(strings.TrimSpace(a), 10, 62)
	y, err2 := strconv.ParseUint(strings.TrimSpace(b), 10, 62)
	if err1 != nil || err2 != nil {
		return 0, 0, false
	}
	return int64(x), int64(y), true
}

// compareText orders text by UTF-16 code units, as Java does.
func compareText(a, b string) int {
	x, y := utf16.Encode([]rune(a)), utf16.Encode([]rune(b))
	for i := 0; i < len(x) && i < len(y); i++ {
		if x[i] != y[i] {
			return int(x[i]) - int(y[i])
		}
	}
	return len(x) - len(y)
}

// automatic lists the parameters that every plugin knows (plugins.md 4.3).
func automatic() []Param {
	return []Param{
		{Key: "au_closed", Display: "AU Closed", Description: "complete: nothing will be added", Type: TypeBoolean, DefaultOnly: true, Automatic: true},
		{Key: "pub_down", Display: "Pub Down", Description: "the publisher's site is gone", Type: TypeBoolean, DefaultOnly: true, Automatic: true},
		{Key: "pub_never", Display: "Pub Never", Description: "never contact the publisher", Type: TypeBoolean, DefaultOnly: true, Automatic: true},
		{Key: "protocol_version", Display: "Polling Protocol Version", Type: TypePosInt, DefaultOnly: true, Automatic: true},
		{Key: "crawl_proxy", Display: "Crawl Proxy", Description: "host:port, or DIRECT", Type: TypeString, DefaultOnly: true, Automatic: true},
		{Key: "nc_interval", Display: "Crawl Interval", Description: "such as 2w", Type: TypeTimeInterval, DefaultOnly: true, Automatic: true},
	}
}

// derive adds the computed values of one parameter to vals.
func derive(p Param, v any, vals map[string]any) {
	switch p.Type {
	case TypeYear:
		if n, ok := v.(int32); ok {
			vals["au_short_"+p.Key] = n % 100
		}
	case TypeURL:
		if s, ok := v.(string); ok {
			u := splitURL(s)
			vals[p.Key+"_host"] = u.host
			vals[p.Key+"_path"] = u.path
		}
	}
}

func derivedParams(p Param) []Param {
	switch p.Type {
	case TypeYear:
		return []Param{{Key: "au_short_" + p.Key, Type: TypeYear, Derived: true}}
	case TypeURL:
		return []Param{{Key: p.Key + "_host", Type: TypeString, Derived: true}, {Key: p.Key + "_path", Type: TypeString, Derived: true}}
	}
	return nil
}

// urlParts is a URL taken apart without any check: what passes as a URL parameter may be no
// URL for package net/url.
type urlParts struct {
	scheme   string // with colon
	slashes  string // "//" or ""
	userinfo string // with @
	host     string
	port     string // with colon
	path     string
	rest     string // query and fragment
}

func splitURL(s string) urlParts {
	var u urlParts
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok {
		u.path = s
		return u
	}
	u.scheme = scheme + ":"
	if after, ok := strings.CutPrefix(rest, "//"); ok {
		u.slashes = "//"
		end := strings.IndexAny(after, "/?#")
		if end < 0 {
			end = len(after)
		}
		auth := after[:end]
		rest = after[end:]
		if i := strings.LastIndexByte(auth, '@'); i >= 0 {
			u.userinfo, auth = auth[:i+1], auth[i+1:]
		}
		i := strings.LastIndexByte(auth, ':')
		if i > strings.LastIndexByte(auth, ']') {
			auth, u.port = auth[:i], auth[i:]
		}
		u.host = auth
	}
	if i := strings.IndexAny(rest, "?#"); i >= 0 {
		rest, u.rest = rest[:i], rest[i:]
	}
	u.path = rest
	return u
}

func (u urlParts) String() string {
	return u.scheme + u.slashes + u.userinfo + u.host + u.port + u.path + u.rest
}

// stem is "scheme://host[:port]/", or "" for a URL without a host.
func (u urlParts) stem() string {
	if u.host == "" {
		return ""
	}
	return u.scheme + "//" + u.host + u.port + "/"
}

// toInt32 narrows like Java's cast.
func toInt32(n int64) int64 { return int64(int32(n & math.MaxUint32)) }
