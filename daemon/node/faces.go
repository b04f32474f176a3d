package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"armarium/daemon/account"
	"armarium/daemon/api"
	"armarium/daemon/lockss"
	"armarium/daemon/serve"
	"armarium/daemon/status"
	"armarium/daemon/store"
	"armarium/daemon/web"
)

// UI says how the pages and the API are reached.
type UI struct {
	Bind      []string `prop:"org.lockss.ui.bindAddrs" default:""` // none: all addresses
	Forbidden string   `prop:"org.lockss.ui.403Msg" default:"Access to the pages of this LOCKSS box is not allowed from your address (%IP%)."`
	LogDenied bool     `prop:"org.lockss.ui.logForbidden" default:"true"`
}

// Connections to one server, in all and from one address.
const (
	maxConnections = 4000
	maxFromOne     = 500
)

// face is one server of the node.
type face struct {
	name     string
	server   *http.Server
	listener net.Listener
}

// run serves until ctx ends, then lets requests in progress finish for a moment.
func (f face) run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- f.server.Serve(f.listener) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	if err := f.server.Shutdown(stop); err != nil {
		f.server.Close()
	}
	<-done
	return context.Cause(ctx)
}

// listen opens every server's port, so that a port that is taken is an error at the start.
func (n *Node) listen() (faces []face, err error) {
	defer func() {
		if err != nil {
			for _, f := range faces {
				f.listener.Close()
			}
		}
	}()
	var ui UI
	n.start.Fill(&ui)
	if n.params.UIStart {
		handler, err := n.pages(ui)
		if err != nil {
			return faces, err
		}
		server := func() *http.Server {
			return &http.Server{Handler: handler, ReadHeaderTimeout: 30 * time.Second, ReadTimeout: time.Minute,
				WriteTimeout: 10 * time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
		}
		if faces, err = open(faces, "pages", ui.Bind, n.params.UIPort, server); err != nil {
			return faces, err
		}
	}
	sc := serve.Config{Host: n.params.Host, Library: library{n.units}, Log: n.part("serve")}
	n.start.Fill(&sc)
	if !sc.Start {
		return faces, nil
	}
	if sc.Port <= 0 {
		return faces, errors.New("the audit proxy is to start but has no port: set org.lockss.proxy.audit.port")
	}
	n.proxy, err = serve.New(sc)
	if err != nil {
		return faces, err
	}
	return open(faces, "audit proxy", sc.BindAddrs, sc.Port, n.proxy.Server)
}

func open(faces []face, name string, bind []string, port int, server func() *http.Server) ([]face, error) {
	if len(bind) == 0 {
		bind = []string{""}
	}
	for _, host := range bind {
		l, err := net.Listen("tcp", net.JoinHostPort(strings.Trim(host, "[]"), fmt.Sprint(port)))
		if err != nil {
			return faces, fmt.Errorf("%s: %w", name, err)
		}
		faces = append(faces, face{name, server(), account.Limit(l, maxConnections, maxFromOne)})
	}
	return faces, nil
}

// pages are the admin pages and the REST API behind the access list.
func (n *Node) pages(ui UI) (http.Handler, error) {
	trail := status.Trail{Record: n.recordAction, Log: n.part("audit trail")}
	sources := n.sources()
	rest, err := api.New(api.Config{Accounts: n.accounts, Sources: sources, Actions: n, Trail: trail, Log: n.part("api")})
	if err != nil {
		return nil, err
	}
	html, err := web.New(web.Config{Accounts: n.accounts, Sources: sources, Actions: n, Trail: trail, Content: n.content, Log: n.part("web")})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle(api.Prefix, rest)
	mux.Handle("/", html)
	denied := n.part("pages")
	if !ui.LogDenied {
		denied = nil
	}
	return n.uiFilter.Guard(mux, ui.Forbidden, denied), nil
}

// content finds one version of a URL for the pages; number 0 is the current one.
func (n *Node) content(id lockss.AUID, url string, number int) (*store.Version, error) {
	u, ok := n.units.reg.Unit(id)
	if !ok || u.Content() == nil {
		return nil, fmt.Errorf("%s: %w", id, status.ErrNotFound)
	}
	if number == 0 {
		return u.Content().Current(url)
	}
	vs, err := u.Content().Versions(url, 0)
	if err != nil {
		return nil, err
	}
	for _, v := range vs {
		if v.Number == number {
			return v, nil
		}
	}
	return nil, fmt.Errorf("version %d of %s: %w", number, url, store.ErrNotPreserved)
}
