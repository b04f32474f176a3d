package lockss

import (
	"fmt"
	"strconv"
	"strings"
)

// defaultPorts has the schemes whose URLs name a host, with the port that goes without saying.
var defaultPorts = map[string]int{"http": 80, "https": 443, "ftp": 21, "gopher": 70}

// NormalizeURL returns the form in which a found link is compared and fetched (crawl.md 11.1):
//
//	" HTTP://Www.Example.com:80/a//b/../c?#x"  →  "http://www.example.com/a/c"
//
// Scheme and host become lower case, the default port, dot segments, repeated slashes, an
// empty query and the fragment go, the letters after '%' become upper case; ".." at the root
// vanishes. Nothing is decoded or encoded further. A URL that needs none of it is returned as
// it is; any other loses its user name and password. Text without host ("", "http:/x",
// "mailto:…") passes through. Schemes other than http, https, ftp, file, jar and mailto are
// an error.
func NormalizeURL(raw string) (string, error) {
	s := trimURL(raw)
	if s == "" {
		return "", nil
	}
	if scheme, _, ok := cutScheme(s); ok && scheme == "gopher" {
		return "", fmt.Errorf("url %q: scheme %q is not one of http, https, ftp, file, jar, mailto", raw, scheme)
	}
	return normalizeURL(s, false)
}

// NodeURL returns the name under which the store keeps a URL (repository.md 3.1): normalised,
// and without the one slash in which it ended, even one of the query. A path that climbs above
// the root is an error.
//
//	http://www.example.com/dir/    →  http://www.example.com/dir
//	http://www.example.com/        →  http://www.example.com
//	http://www.example.com/x?u=y/  →  http://www.example.com/x?u=y
func NodeURL(raw string) (string, error) {
	s := trimURL(raw)
	if s == "" {
		return "", fmt.Errorf("url %q: empty", raw)
	}
	s, err := normalizeURL(s, true)
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(s, "/"), nil
}

// trimURL drops blanks and controls at both ends, and each line break with the white space
// after it.
func trimURL(s string) string {
	s = strings.TrimFunc(s, func(r rune) bool { return r <= ' ' })
	if !strings.ContainsAny(s, "\r\n") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\r' && s[i] != '\n' {
			b.WriteByte(s[i])
			continue
		}
		for i+1 < len(s) && strings.IndexByte(" \t\n\v\f\r", s[i+1]) >= 0 {
			i++
		}
	}
	return b.String()
}

// cutScheme returns the scheme in lower case and what follows its colon.
func cutScheme(s string) (scheme, rest string, ok bool) {
	i := strings.IndexAny(s, ":/?#")
	if i <= 0 || s[i] != ':' {
		return "", "", false
	}
	for j := range i {
		c := s[j] | 0x20
		if letter := 'a' <= c && c <= 'z'; !letter && (j == 0 || strings.IndexByte("0123456789+-.", s[j]) < 0) {
			return "", "", false
		}
	}
	return strings.ToLower(s[:i]), s[i+1:], true
}

// normalizeURL does steps 3 to 9 of crawl.md 11.1 on trimmed text. Strict refuses a path that
// climbs above the root, as the store does.
func normalizeURL(s string, strict bool) (string, error) {
	scheme, rest, ok := cutScheme(s)
	if !ok {
		return "", fmt.Errorf("url %q: no scheme", s)
	}
	port, hasHost := defaultPorts[scheme]
	switch {
	case scheme == "mailto", scheme == "jar":
		return scheme + ":" + rest, nil
	case !hasHost && scheme != "file":
		return "", fmt.Errorf("url %q: scheme %q is not one of http, https, ftp, file, jar, mailto", s, scheme)
	}
	var authority string
	path, slashes := strings.CutPrefix(rest, "//")
	if slashes {
		i := strings.IndexAny(path, "/?#")
		if i < 0 {
			i = len(path)
		}
		authority, path = path[:i], path[i:]
	}
	if authority == "" && scheme != "file" {
		return s, nil
	}

	// What is compared to learn whether anything changed leaves out user and empty port,
	// which by themselves are no reason to rebuild the URL.
	hostport := authority[strings.LastIndexByte(authority, '@')+1:]
	hostport = strings.TrimSuffix(hostport, ":")
	before := s[:len(s)-len(rest)] + "//" + hostport + path
	if !slashes {
		before = s
	}

	var out strings.Builder
	out.WriteString(scheme)
	out.WriteByte(':')
	if authority != "" {
		host, number, err := splitPort(hostport)
		if err != nil {
			return "", fmt.Errorf("url %q: %w", s, err)
		}
		out.WriteString("//")
		out.WriteString(strings.ToLower(host))
		if number >= 0 && number != port {
			out.WriteByte(':')
			out.WriteString(strconv.Itoa(number))
		}
	}
	path, _, _ = strings.Cut(path, "#")
	path, query, _ := strings.Cut(path, "?")
	path, ok = cleanPath(path)
	if !ok && strict {
		return "", fmt.Errorf("url %q: path climbs above the root", s)
	}
	out.WriteString(upperEscapes(path))
	if query != "" {
		out.WriteByte('?')
		out.WriteString(upperEscapes(query))
	}
	if out.String() == before {
		return s, nil
	}
	return out.String(), nil
}

// splitPort splits "host:port" or "[2001:db8::1]:port"; number is -1 without a port.
func splitPort(hostport string) (host string, number int, err error) {
	host, number = hostport, -1
	if i := strings.LastIndexByte(hostport, ':'); i > strings.LastIndexByte(hostport, ']') {
		n, err := strconv.ParseUint(hostport[i+1:], 10, 31)
		if err != nil {
			return "", 0, fmt.Errorf("port %q is not a number", hostport[i+1:])
		}
		host, number = hostport[:i], int(n)
	}
	bracketed := strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]")
	if host == "" || !bracketed && strings.ContainsAny(host, ":[]") {
		return "", 0, fmt.Errorf("host %q is neither a name nor an address", host)
	}
	return host, number, nil
}

// cleanPath collapses slashes and resolves dot segments. It returns false when ".." was met
// at the root, where it vanishes. The result begins with '/'.
func cleanPath(path string) (string, bool) {
	var out []string
	inside, dir := true, false
	for seg := range strings.SplitSeq(path, "/") {
		switch seg {
		case "":
			dir = true
		case ".":
			// Not a directory: "/x/." is "/x", but "/x/./" is "/x/".
			dir = false
		case "..":
			dir = true
			if len(out) == 0 {
				inside = false
				continue
			}
			out = out[:len(out)-1]
		default:
			dir = false
			out = append(out, seg)
		}
	}
	if len(out) == 0 {
		return "/", inside
	}
	clean := "/" + strings.Join(out, "/")
	if dir {
		clean += "/"
	}
	return clean, inside
}

// upperEscapes makes the two characters after each '%' upper case, hexadecimal or not.
func upperEscapes(s string) string {
	i := strings.IndexByte(s, '%')
	if i < 0 {
		return s
	}
	b := []byte(s)
	for ; i+2 < len(b); i++ {
		if b[i] != '%' {
			continue
		}
		for _, j := range []int{i + 1, i + 2} {
			if 'a' <= b[j] && b[j] <= 'z' {
				b[j] -= 'a' - 'A'
			}
		}
		i += 2
	}
	return string(b)
}
