package config

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"armarium/daemon/javaprops"
)

// source is one configuration file, local or remote, and what was last read from it.
type source struct {
	name     string // as configured: a URL or a path
	modified string // Last-Modified as the server gave it, or the time of a local file
	body     []byte // unzipped
	lastInfo time.Time
}

func isRemote(name string) bool {
	return strings.HasPrefix(name, "http://") || strings.HasPrefix(name, "https://")
}

// isPlatform tells whether a file is read first, because conditions depend on it.
func isPlatform(name string) bool { return strings.HasSuffix(strings.ToLower(name), "local.txt") }

// newClient makes the client of property servers. Certificates are verified against the
// system's roots.
func newClient(connect, data time.Duration, proxy string) *http.Client {
	t := &http.Transport{
		DialContext:           (&net.Dialer{Timeout: connect}).DialContext,
		ResponseHeaderTimeout: data,
		DisableCompression:    true, // asked for and undone here
	}
	if proxy != "" && !strings.EqualFold(proxy, "NONE") {
		t.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: proxy})
	}
	return &http.Client{Transport: t, Timeout: connect + data}
}

var hint = regexp.MustCompile(`(?is)LOCKSSHINT:(.*?)ENDHINT`)

// read brings the source up to date and tells whether its bytes changed. info, when not
// empty, is sent as X-Lockss-Info (config.md 7.1).
func (s *source) read(ctx context.Context, c *http.Client, info string) (changed bool, err error) {
	if isRemote(s.name) {
		return s.fetch(ctx, c, info)
	}
	path := strings.TrimPrefix(s.name, "file:")
	fi, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	stamp := fi.ModTime().String() + " " + fmt.Sprint(fi.Size())
	if s.body != nil && stamp == s.modified {
		return false, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	body, err := readBody(f, strings.HasSuffix(path, ".gz"))
	if err != nil {
		return false, fmt.Errorf("read %s: %w", path, err)
	}
	changed = s.body == nil || !bytes.Equal(body, s.body)
	s.body, s.modified = body, stamp
	return changed, nil
}

func (s *source) fetch(ctx context.Context, c *http.Client, info string) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.name, nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("Accept-Encoding", "gzip")
	if s.body != nil && s.modified != "" {
		req.Header.Set("If-Modified-Since", s.modified)
	}
	if info != "" {
		req.Header.Set("X-Lockss-Info", info)
	}
	resp, err := c.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotModified:
		if s.body == nil {
			return false, fmt.Errorf("%s: answered 304 to a first request", s.name)
		}
		return false, nil
	case http.StatusNotFound:
		return false, fmt.Errorf("%s: %w", s.name, fs.ErrNotExist)
	default:
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 10_000))
		if m := hint.FindSubmatch(text); m != nil && resp.StatusCode == http.StatusForbidden {
			return false, fmt.Errorf("%s: refused: %s", s.name, strings.TrimSpace(string(m[1])))
		}
		return false, fmt.Errorf("%s: the property server answered %s", s.name, resp.Status)
	}
	body, err := readBody(resp.Body, resp.Header.Get("Content-Encoding") == "gzip" || strings.HasSuffix(s.name, ".gz"))
	if err != nil {
		return false, fmt.Errorf("read %s: %w", s.name, err)
	}
	changed := s.body == nil || !bytes.Equal(body, s.body)
	s.body, s.modified = body, resp.Header.Get("Last-Modified")
	return changed, nil
}

var errTooLong = errors.New("configuration file longer than 64 MiB")

func readBody(r io.Reader, zipped bool) ([]byte, error) {
	if zipped {
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, err
		}
		r = z
	}
	b, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err == nil && len(b) > maxDocument {
		err = errTooLong
	}
	return b, err
}

// parse gives the parameters of a file by its kind (config.md 5.1).
func parse(name string, body []byte, facts Facts) (map[string]string, error) {
	base := strings.TrimSuffix(strings.ToLower(name), ".gz")
	var m map[string]string
	var err error
	if strings.HasSuffix(base, ".xml") {
		m, err = ParseXML(body, facts)
	} else {
		m, err = javaprops.Parse(body)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return m, nil
}

// resolve gives the name of a file that another file mentions.
func resolve(name, from string) string {
	if isRemote(name) || filepath.IsAbs(name) || strings.HasPrefix(name, "file:") {
		return name
	}
	if isRemote(from) {
		if base, err := url.Parse(from); err == nil {
			if u, err := base.Parse(name); err == nil {
				return u.String()
			}
		}
	}
	return filepath.Join(filepath.Dir(from), name)
}
