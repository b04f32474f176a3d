package node

import (
	"context"
	"encoding/json"
	"html/template"
	"net/http"
	"sync"
	"time"

	"armarium/daemon/account"
	"armarium/daemon/api"
	"armarium/daemon/config"
	"armarium/daemon/status"
)

// Attempts to load the first configuration.
const (
	firstWait = time.Second
	maxWait   = time.Minute
)

// firstLoad waits for the first configuration. Meanwhile the port of the pages tells why there
// is none (admin.md 14).
func (n *Node) firstLoad(ctx context.Context) error {
	var page *waitingPage
	defer func() { page.close() }()
	for wait := firstWait; ; wait = min(2*wait, maxWait) {
		s, err := n.loader.Load(ctx)
		if err == nil {
			n.start = s
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n.log.Error("no configuration yet; it is asked for again", "err", err, "in", wait)
		if page == nil {
			page = n.openWaiting(n.loader.Platform(), err)
		}
		page.set(err)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

// waitingPage is the one page of a node that has no configuration. A nil one does nothing.
type waitingPage struct {
	users *account.Accounts
	host  string
	faces []face

	mu  sync.Mutex
	err error
	at  time.Time
}

// openWaiting serves the page as far as the platform files say where and to whom; nil if it
// cannot.
func (n *Node) openWaiting(s *config.Snapshot, why error) *waitingPage {
	var p Params
	var ui UI
	s.Fill(&p)
	s.Fill(&ui)
	if !p.UIStart {
		return nil
	}
	accounts, err := account.New(account.Config{Users: users(s)})
	if err != nil {
		n.log.Error("accounts", "err", err)
	}
	w := &waitingPage{users: accounts, host: p.Host, err: why, at: time.Now()}
	w.faces, err = open(nil, "pages", ui.Bind, p.UIPort, func() *http.Server {
		return &http.Server{Handler: w, ReadHeaderTimeout: 30 * time.Second, ReadTimeout: time.Minute, WriteTimeout: time.Minute}
	})
	if err != nil {
		n.log.Warn("the missing configuration is not shown on the pages", "err", err)
	}
	for _, f := range w.faces {
		go f.server.Serve(f.listener) // until close
	}
	return w
}

func (w *waitingPage) set(err error) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err, w.at = err, time.Now()
}

func (w *waitingPage) close() {
	if w == nil {
		return
	}
	for _, f := range w.faces {
		f.server.Close()
	}
}

var waitingTemplate = template.Must(template.New("").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="10"><title>LOCKSS box</title></head><body>
<h1>LOCKSS box</h1>
<p>{{or .Host "This box"}} has not started because its configuration could not be loaded. It is tried again.</p>
<p>Last attempt {{.At}}: {{.Err}}</p>
</body></html>
`))

// ServeHTTP answers for the health of the daemon from loopback, and anything else with the
// page, after a login.
func (w *waitingPage) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	err, at := w.err, w.at
	w.mu.Unlock()
	h := rw.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Cache-Control", "no-store")
	if r.URL.Path == api.Prefix+"health" && account.ClientAddr(r).IsLoopback() {
		h.Set("Content-Type", "application/json")
		json.NewEncoder(rw).Encode(status.Health{State: status.HealthStarting, Reason: "no configuration: " + err.Error()})
		return
	}
	if _, err := w.users.Identify(r); err != nil {
		h.Set("WWW-Authenticate", `Basic realm="`+account.Realm+`"`)
		http.Error(rw, err.Error(), http.StatusUnauthorized)
		return
	}
	h.Set("Content-Type", "text/html; charset=utf-8")
	rw.WriteHeader(http.StatusServiceUnavailable)
	waitingTemplate.Execute(rw, map[string]string{"Host": w.host, "At": status.FormatTime(at), "Err": err.Error()})
}
