package links

import (
	"fmt"
	"slices"
	"strings"
)

// MalformedError is a link that is no URL of a known scheme.
type MalformedError struct{ Base, Link string }

func (e *MalformedError) Error() string {
	return fmt.Sprintf("link %q on %s: malformed", e.Link, e.Base)
}

// schemes that a URL may have (crawl.md 11.1).
var schemes = []string{"http", "https", "ftp", "file", "jar", "mailto"}

// escape makes the five characters that are encoded in every link; an existing % stays.
var escape = strings.NewReplacer(" ", "%20", `"`, "%22", "|", "%7C", "[", "%5B", "]", "%5D")

// Resolve makes a link found on the page base absolute (crawl.md 11.2). With base "" only
// absolute links resolve. "data:" and "mailto:" come back unchanged. The error is a
// *MalformedError.
func Resolve(base, link string) (string, error) {
	ref := trim(joinLines(link))
	if hasFold(ref, "data:") || hasFold(ref, "mailto:") {
		return ref, nil
	}
	ref = escape.Replace(ref)
	if strings.HasPrefix(ref, "?") && base != "" {
		if i := strings.IndexAny(base, "?#"); i >= 0 {
			base = base[:i]
		}
		return base + ref, nil
	}
	b, ok := split(base)
	r, rok := split(ref)
	if ok && rok && r.scheme == b.scheme && strings.HasPrefix(b.path, "/") || !rok && r.scheme == "" {
		// Relative, also with the base's own scheme ("http:x").
		if !ok {
			return "", &MalformedError{base, link}
		}
		r = b.join(r)
	} else if !rok {
		return "", &MalformedError{base, link}
	}
	if !r.portOK() {
		return "", &MalformedError{base, link}
	}
	return r.String(), nil
}

// parts of a URL, as far as resolution needs them. Absent query and fragment are "", else
// they begin with their "?" or "#".
type parts struct {
	scheme, auth, path, query, frag string
	hasAuth                         bool
}

// split takes a URL apart. ok is false when it has no scheme (then scheme is "") or an
// unknown one.
func split(s string) (p parts, ok bool) {
	if i := strings.IndexByte(s, '#'); i >= 0 {
		s, p.frag = s[:i], s[i:]
	}
	if i := strings.IndexByte(s, ':'); i > 0 && isScheme(s[:i]) {
		p.scheme, s = strings.ToLower(s[:i]), s[i+1:]
		ok = slices.Contains(schemes, p.scheme)
	}
	if i := strings.IndexByte(s, '?'); i >= 0 {
		s, p.query = s[:i], s[i:]
	}
	if rest, found := strings.CutPrefix(s, "//"); found && !strings.HasPrefix(s, "////") {
		p.hasAuth = true
		i := strings.IndexByte(rest, '/')
		if i < 0 {
			i = len(rest)
		}
		p.auth, s = rest[:i], rest[i:]
	}
	p.path = s
	return p, ok
}

func isScheme(s string) bool {
	for i := range len(s) {
		if c := s[i]; !('a' <= c|0x20 && c|0x20 <= 'z') && (i == 0 || !alnum(c) && strings.IndexByte("+-.", c) < 0) {
			return false
		}
	}
	return s != ""
}

// join resolves the reference r, whose scheme is that of b or none. An authority without
// text ("http://") counts as none, so that the path of b remains.
func (b parts) join(r parts) parts {
	r.scheme = b.scheme
	if r.auth == "" {
		if !r.hasAuth {
			r.auth = b.auth
		}
		switch {
		case r.path == "":
			if r.query == "" && !r.hasAuth {
				r.query = b.query
				if r.frag == "" {
					r.frag = b.frag
				}
			}
			r.path = b.path
		case !strings.HasPrefix(r.path, "/"):
			r.path = undot(b.path[:strings.LastIndexByte(b.path, '/')+1] + r.path)
			if !strings.HasPrefix(r.path, "/") && r.auth != "" {
				r.path = "/" + r.path
			}
		}
	}
	return r
}

// undot removes dot segments; ".." that climb above the root are kept, for normalisation
// to remove (crawl.md 11.2 step 4).
func undot(path string) string {
	segs := strings.Split(path, "/")
	var out []string
	for i, s := range segs {
		last := i == len(segs)-1
		switch {
		case s == "." && len(segs) > 1:
			if last {
				out = append(out, "")
			}
		case s == ".." && len(out) > 1 && out[len(out)-1] != "..":
			out = out[:len(out)-1]
			if last {
				out = append(out, "")
			}
		default:
			out = append(out, s)
		}
	}
	return strings.Join(out, "/")
}

// portOK says whether what follows the host is a number.
func (p parts) portOK() bool {
	host := p.auth[strings.LastIndexByte(p.auth, '@')+1:]
	if i := strings.LastIndexByte(host, ']'); i >= 0 {
		host = host[i:]
	}
	_, port, _ := strings.Cut(host, ":")
	return strings.Trim(port, "0123456789") == ""
}

func (p parts) String() string {
	var s strings.Builder
	s.WriteString(p.scheme + ":")
	if p.auth != "" {
		s.WriteString("//" + p.auth)
	}
	s.WriteString(p.path + p.query + p.frag)
	return s.String()
}

// joinLines removes line breaks with the white space after them.
func joinLines(s string) string {
	if !strings.ContainsAny(s, "\r\n") {
		return s
	}
	var b strings.Builder
	for s != "" {
		i := strings.IndexAny(s, "\r\n")
		if i < 0 {
			i = len(s)
		}
		b.WriteString(s[:i])
		s = strings.TrimLeft(s[i:], " \t\r\n\v\f")
	}
	return b.String()
}

// trim removes characters up to the blank at both ends.
func trim(s string) string {
	return strings.TrimFunc(s, func(r rune) bool { return r <= ' ' })
}

func hasFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}
