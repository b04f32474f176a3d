package serve

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"armarium/daemon/store"
)

// Headers says which stored properties are sent along with content.
type Headers struct {
	InferType bool `prop:"org.lockss.proxy.inferMimeType" default:"true"`
	// CopyStored sends stored response headers. The name is spelled like this.
	CopyStored bool `prop:"org.lockss.proxy.copyStoredResponseHeaderss" default:"true"`
	// AuditProps sends checksum and repair notes too.
	AuditProps bool `prop:"org.lockss.proxy.includeLockssAuditProperties" default:"false"`
	// IgnoreSince answers whole when the stored content-length is not the size.
	IgnoreSince bool `prop:"org.lockss.proxy.ignoreIfModifiedWhenContentLengthWrong" default:"false"`
}

// Properties that are not headers of the publisher (repository.md 4.1).
var (
	internalProps = []string{"x-lockss-content-type", "x-lockss-content-url", "x-lockss-node-url", "x-lockss-orig-url",
		"x-lockss-redirected-to", "x-lockss-referrer", "org.lockss.version.number", "org.lockss.node.was.inactive"}
	auditProps = []string{"x-lockss-repaired-from", "x-lockss-repaired-date", "x-lockss-checksum"}
	hopByHop   = []string{"proxy-connection", "connection", "keep-alive", "transfer-encoding", "te", "trailer", "proxy-authorization", "proxy-authenticate", "upgrade"}
	framing    = []string{"content-type", "content-length", "content-range", "accept-ranges", "last-modified", "location"} // of this answer
	origProps  = []string{"date", "server", "x_lockss-server-date"}                                                        // sent under another name
)

const origPrefix = "X-Lockss-Orig-"

// Content sends a version as the answer to a request for url, by the rules of proxies.md 3:
// a stored redirect as 301; else 200, 206, 304, 412 or 416 with the stored bytes.
func Content(w http.ResponseWriter, r *http.Request, v *store.Version, url string, opt Headers) {
	h := w.Header()
	h.Set("X-Lockss", "from-cache")
	if to := redirect(v.Props, url); to != "" {
		h.Set("Location", to)
		h.Set("Content-Length", "0")
		w.WriteHeader(http.StatusMovedPermanently)
		return
	}
	f, err := v.Open()
	if err != nil {
		h.Set("Content-Type", "text/plain; charset=utf-8")
		h.Set("X-Content-Type-Options", "nosniff")
		w.WriteHeader(http.StatusInternalServerError)
		if r.Method != http.MethodHead {
			io.WriteString(w, "This URL is preserved, but its bytes could not be read from the disk. The next audit should repair it.\n")
		}
		return
	}
	body := &seekable{v: v, f: f}
	defer body.Close()

	storedHeaders(h, v, opt)
	typ := v.Props["x-lockss-content-type"]
	if typ == "" && opt.InferType {
		typ = inferType(url)
	}
	h["Content-Type"] = nil // none is sent, none is guessed from the bytes
	setStored(h, "Content-Type", typ)

	// The standard library does the rest, on a request that has only what applies: HEAD is
	// never conditional, POST is answered like GET.
	r = r.Clone(r.Context())
	wrongLength := false
	if n, err := strconv.ParseInt(strings.TrimSpace(v.Props["content-length"]), 10, 64); err == nil {
		wrongLength = n != v.Size
	}
	if r.Method == http.MethodHead {
		for _, k := range []string{"If-Modified-Since", "If-Unmodified-Since", "If-None-Match", "If-Match", "If-Range", "Range"} {
			r.Header.Del(k)
		}
	} else {
		r.Method = http.MethodGet
	}
	if opt.IgnoreSince && wrongLength {
		r.Header.Del("If-Modified-Since")
	}
	http.ServeContent(sized{w, v.Size}, r, "", lastModified(v.Props), body)
}

// sized adds the length of whole answers, which http.ServeContent leaves out of encoded ones.
type sized struct {
	http.ResponseWriter
	size int64
}

func (s sized) WriteHeader(status int) {
	if status == http.StatusOK {
		s.Header().Set("Content-Length", strconv.FormatInt(s.size, 10))
	}
	s.ResponseWriter.WriteHeader(status)
}

// storedHeaders puts the stored headers into the answer (proxies.md 3, 5).
func storedHeaders(h http.Header, v *store.Version, opt Headers) {
	if stored := v.Props["content-length"]; stored != strconv.FormatInt(v.Size, 10) {
		setStored(h, origPrefix+"Content-Length", stored)
	}
	for _, k := range origProps {
		setStored(h, origPrefix+k, v.Props[k])
	}
	for k, val := range v.Props {
		audit := slices.Contains(auditProps, k)
		switch {
		case audit && !opt.AuditProps, !audit && !opt.CopyStored, !token(k):
		case slices.Contains(internalProps, k), slices.Contains(hopByHop, k), slices.Contains(origProps, k), slices.Contains(framing, k):
		case k == "via":
			setStored(h, "Via", val+", "+h.Get("Via"))
		case strings.HasPrefix(k, "x-lockss-orig-"): // an earlier box's note of the publisher's own header
			setStored(h, k, val)
		case h.Get(k) == "":
			setStored(h, k, val)
		}
	}
	// A stored encoding goes with the bytes even if other headers are not wanted: without it
	// they could not be read.
	setStored(h, "Content-Encoding", v.Props["content-encoding"])
}

// redirect is where a stored version sends the reader, or "" (proxies.md 3, 2).
func redirect(props map[string]string, requested string) string {
	if to, ok := headerValue(props["x-lockss-redirected-to"]); ok && to != "" && to != requested {
		return to
	}
	node, ok := headerValue(props["x-lockss-node-url"])
	asked := pathOf(requested)
	// "http://host" and "http://host/" are one request.
	if ok && asked != "" && !strings.HasSuffix(asked, "/") && strings.HasSuffix(pathOf(node), "/") {
		return node
	}
	return ""
}

func pathOf(u string) string {
	u, _, _ = strings.Cut(u, "#")
	u, _, _ = strings.Cut(u, "?")
	_, rest, _ := strings.Cut(u, "://")
	i := strings.IndexByte(rest, '/')
	if i < 0 {
		return ""
	}
	return rest[i:]
}

// lastModified is the stored header, else when the version was collected.
func lastModified(props map[string]string) time.Time {
	if t, err := http.ParseTime(props["last-modified"]); err == nil {
		return t
	}
	return Collected(props)
}

// Collected is when a version was collected; zero if that is not recorded.
func Collected(props map[string]string) time.Time {
	if ms, err := strconv.ParseInt(props["x_lockss-server-date"], 10, 64); err == nil && ms > 0 {
		return time.UnixMilli(ms).UTC()
	}
	return time.Time{}
}

// inferType guesses a content type from the URL's name.
func inferType(u string) string {
	p, err := url.Parse(u)
	if err != nil {
		return ""
	}
	return mime.TypeByExtension(path.Ext(p.Path))
}

// headerValue gives the bytes of a stored value, which are Latin-1 in the file and were so on
// the wire; ok is false for one that would end the header.
func headerValue(s string) (value string, ok bool) {
	b := make([]byte, 0, len(s))
	for _, r := range s {
		if r < ' ' && r != '\t' || r == 0x7f || r > 0xff {
			return "", false
		}
		b = append(b, byte(r))
	}
	return string(b), true
}

// setStored sets a header to a stored value, if there is one that can be sent.
func setStored(h http.Header, name, stored string) {
	if val, ok := headerValue(stored); ok && val != "" {
		h.Set(name, val)
	}
}

// token tells whether a stored key can be a header name (RFC 9110, 5.6.2).
func token(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\"(),/:;<=>?@[\\]{}", c) >= 0 {
			return false
		}
	}
	return s != ""
}

// seekable reads a version from any place. Files seek; what does not is read from its
// beginning again.
type seekable struct {
	v   *store.Version
	f   io.ReadCloser
	at  int64 // where Read goes on
	pos int64 // where f is
}

func (s *seekable) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += s.at
	case io.SeekEnd:
		offset += s.v.Size
	}
	if offset < 0 {
		return 0, errors.New("seek before the beginning")
	}
	s.at = offset
	return offset, nil
}

func (s *seekable) Read(b []byte) (int, error) {
	if err := s.catchUp(); err != nil {
		return 0, err
	}
	n, err := s.f.Read(b)
	s.at += int64(n)
	s.pos = s.at
	return n, err
}

// catchUp brings the file to where reading goes on.
func (s *seekable) catchUp() error {
	if s.at == s.pos {
		return nil
	}
	if f, ok := s.f.(io.Seeker); ok {
		if _, err := f.Seek(s.at, io.SeekStart); err != nil {
			return err
		}
		s.pos = s.at
		return nil
	}
	if s.at < s.pos {
		f, err := s.v.Open()
		if err != nil {
			return err
		}
		s.f.Close()
		s.f, s.pos = f, 0
	}
	n, err := io.CopyN(io.Discard, s.f, s.at-s.pos)
	s.pos += n
	return err
}

func (s *seekable) Close() error { return s.f.Close() }

// Viewable tells whether View shows a content type in the browser; other types it sends as a
// file to save.
func Viewable(contentType string) bool {
	t, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false
	}
	return strings.HasPrefix(t, "text/") || t == "application/xhtml+xml" || t == "application/pdf" ||
		strings.HasPrefix(t, "image/")
}

// viewPolicy takes from preserved content everything it could do to the node's own pages: no
// scripts, no forms, an origin of its own, nothing loaded from anywhere. Styles inside the
// page and embedded images are left.
const viewPolicy = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"

// View sends the content of a version to a user of the node's pages, with its content
// encoding undone. It comes from the same origin as the pages, so it is made harmless
// whatever it is; types that are not Viewable, and all if save is set, are sent as a file.
func View(w http.ResponseWriter, r *http.Request, v *store.Version, save bool) error {
	f, err := v.OpenContent()
	if err != nil {
		return fmt.Errorf("view %s: %w", v.URL, err)
	}
	defer f.Close()
	h := w.Header()
	typ := v.Props["x-lockss-content-type"]
	if typ == "" {
		typ = inferType(v.URL)
	}
	if val, ok := headerValue(typ); !ok || val == "" {
		typ = "application/octet-stream"
	}
	disposition := "inline"
	if save || !Viewable(typ) {
		disposition = "attachment"
		typ = "application/octet-stream"
	}
	h.Set("Content-Type", typ)
	h.Set("Content-Disposition", mime.FormatMediaType(disposition, map[string]string{"filename": fileName(v.URL)}))
	h.Set("Content-Security-Policy", viewPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	if r.Method == http.MethodHead {
		return nil
	}
	if _, err := io.Copy(w, f); err != nil {
		return fmt.Errorf("view %s: %w", v.URL, err)
	}
	return nil
}

// fileName is a name to save a URL under.
func fileName(u string) string {
	name := ""
	if p, err := url.Parse(u); err == nil {
		if name = path.Base(p.Path); name == "/" || name == "." {
			name = p.Hostname()
		}
	}
	name = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || strings.ContainsRune(`/\:*?"<>|`, r) {
			return '_'
		}
		return r
	}, name)
	if len(name) > 100 {
		name = name[:100]
	}
	if strings.Trim(name, ". _") == "" {
		return "content"
	}
	return strings.ToValidUTF8(name, "_")
}
