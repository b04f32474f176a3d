package world

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"html"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Office is what the administrator of a network runs: web servers for the property file,
// for the keystore and for the plugin registry. Files are replaced whole with Put and
// answered with Last-Modified, so that nodes can ask again cheaply.
type Office struct {
	mu    sync.Mutex
	files map[string]file
	wg    sync.WaitGroup
	srvs  []*http.Server
}

type file struct {
	body     []byte
	modified time.Time
}

// StartOffice serves the same files on each of the loopback ports (of 127.0.0.1 and of
// Address).
func StartOffice(ports ...int) (*Office, error) {
	o := &Office{files: map[string]file{}}
	for _, port := range ports {
		for _, host := range []string{"127.0.0.1", Address} {
			l, err := net.Listen("tcp", net.JoinHostPort(host, fmt.Sprint(port)))
			if err != nil {
				o.Stop()
				return nil, err
			}
			srv := &http.Server{Handler: o, ReadHeaderTimeout: time.Minute}
			o.srvs = append(o.srvs, srv)
			o.wg.Go(func() { srv.Serve(l) })
		}
	}
	return o, nil
}

// Put publishes body at path, which starts with "/".
func (o *Office) Put(path string, body []byte, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.files[path] = file{body, now}
}

func (o *Office) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	f, ok := o.files[r.URL.Path]
	o.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	http.ServeContent(w, r, r.URL.Path, f.modified, bytes.NewReader(f.body))
}

// Stop ends the servers and waits for them.
func (o *Office) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var errs []error
	for _, s := range o.srvs {
		if err := s.Shutdown(ctx); err != nil {
			errs = append(errs, s.Close())
		}
	}
	o.wg.Wait()
	return errors.Join(errs...)
}

// RegistryPage is the page of a plugin registry that lists jars, with the statement that
// lets nodes collect them.
func RegistryPage(title string, jars ...string) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "<html><head><title>%s</title></head><body>\n<p>LOCKSS system has permission to collect, preserve, and serve this Archival Unit</p>\n<ul>\n", html.EscapeString(title))
	for _, j := range jars {
		fmt.Fprintf(&b, "<li><a href=\"%s\">%s</a></li>\n", html.EscapeString(j), html.EscapeString(j))
	}
	b.WriteString("</ul></body></html>\n")
	return []byte(b.String())
}

// PropertyFile is a lockss.xml with the parameters, sorted by name.
func PropertyFile(params map[string]string) []byte {
	var b bytes.Buffer
	b.WriteString("<lockss-config>\n")
	for _, name := range slices.Sorted(maps.Keys(params)) {
		b.WriteString("  <property name=\"")
		xml.EscapeText(&b, []byte(name))
		b.WriteString("\" value=\"")
		xml.EscapeText(&b, []byte(params[name]))
		b.WriteString("\"/>\n")
	}
	b.WriteString("</lockss-config>\n")
	return b.Bytes()
}
