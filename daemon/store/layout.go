package store

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"armarium/daemon/lockss"
)

const (
	maxURL       = 8 << 10 // bytes; a longer one has no place below a unit
	maxComponent = 255     // bytes of one directory name, the limit of Linux file systems

	contentDir = "#content"
)

// urlPath returns the directories below a unit that stand for url, without normalising it
// (repository.md 3.2). The path lies inside the unit whatever the url.
//
//	http://www.example.com:8080/a/x?u=/y  →  www.example.com:8080 http a x?u=#sy
//
// A component of more than 255 bytes becomes several, all but the last ending in a backslash.
func urlPath(url string) ([]string, error) {
	scheme, rest, ok := strings.Cut(url, "://")
	switch {
	case !ok || scheme == "":
		return nil, fmt.Errorf("url %q: no scheme and host", url)
	case len(url) > maxURL:
		return nil, fmt.Errorf("url of %d bytes: the limit is %d", len(url), maxURL)
	case !utf8.ValidString(url):
		return nil, fmt.Errorf("url %q: not UTF-8", url)
	case strings.ContainsAny(url, "#\x00"):
		return nil, fmt.Errorf("url %q: '#' and NUL have no place in a path", url)
	}
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	host := rest[strings.LastIndexByte(rest[:end], '@')+1 : end]
	host = strings.TrimSuffix(host, ":")
	path, query, hasQuery := strings.Cut(rest[end:], "?")
	if hasQuery {
		path += "?" + strings.ReplaceAll(query, "/", "#s")
	}
	path = strings.TrimSuffix(strings.TrimPrefix(path, "/"), "/")
	path = strings.ReplaceAll(path, `\`, "%5C")

	var comps []string
	if host != "" {
		comps = append(comps, host)
	}
	comps = append(comps, scheme)
	for _, name := range comps {
		// Such names would be no host and no scheme when read back, or no file name.
		if name == "." || name == ".." || len(name) > maxComponent || strings.ContainsAny(name, `/\`) {
			return nil, fmt.Errorf("url %q: host or scheme cannot be a file name", url)
		}
	}
	if path == "" {
		return comps, nil
	}
	for c := range strings.SplitSeq(path, "/") {
		if c == "" || c == "." || c == ".." {
			return nil, fmt.Errorf("url %q: path component %q is not normalised", url, c)
		}
		comps = appendComponent(comps, c)
	}
	return comps, nil
}

// appendComponent splits c so that each directory name has at most 255 bytes.
func appendComponent(comps []string, c string) []string {
	for len(c) > maxComponent {
		cut := maxComponent - 1 // one byte is for the backslash
		for !utf8.RuneStart(c[cut]) {
			cut--
		}
		// A rest of dots would name this directory or its parent. One character less here
		// reads back the same.
		if rest := c[cut:]; rest == "." || rest == ".." {
			_, n := utf8.DecodeLastRuneInString(c[:cut])
			cut -= n
		}
		comps = append(comps, c[:cut]+`\`)
		c = c[cut:]
	}
	return append(comps, c)
}

// errContinuation is the answer to a path that ends within a component.
var errContinuation = errors.New("directory holds the rest of a long name, not a URL")

// pathURL returns the URL whose directories comps are (repository.md 3.3).
func pathURL(comps []string) (string, error) {
	if len(comps) < 2 {
		return "", fmt.Errorf("path %q: no host and scheme", strings.Join(comps, "/"))
	}
	var url, name strings.Builder
	url.WriteString(comps[1] + "://" + comps[0])
	for _, c := range comps[2:] {
		if part, more := strings.CutSuffix(c, `\`); more {
			name.WriteString(part)
			continue
		}
		name.WriteString(c)
		url.WriteByte('/')
		url.WriteString(decodeName(name.String()))
		name.Reset()
	}
	if name.Len() > 0 {
		return "", errContinuation
	}
	return url.String(), nil
}

// decodeName undoes the '#' escapes of a name: "#s" is "/", "#x" is "x".
func decodeName(name string) string {
	if !strings.Contains(name, "#") {
		return name
	}
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		if name[i] == '#' && i+1 < len(name) {
			i++
			if name[i] == 's' {
				b.WriteByte('/')
				continue
			}
		}
		b.WriteByte(name[i])
	}
	return b.String()
}

// nodePath returns where the node of a URL as crawled or as voted on is to be.
func nodePath(url string) ([]string, error) {
	node, err := lockss.NodeURL(url)
	if err != nil {
		return nil, err
	}
	return urlPath(node)
}

// unitName returns the n-th name of a unit's directory, from 1: a … z, aa … az, ba …
// (repository.md 2).
func unitName(n int) string {
	var b []byte
	for ; n > 0; n = (n - 1) / 26 {
		b = append(b, byte('a'+(n-1)%26))
	}
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
	return string(b)
}
