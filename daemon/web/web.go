// Package web is the node for people: pages made on the server, one small style sheet, no
// scripts.
//
//	/                      three questions about the node, with verdicts and evidence
//	/collections           all collections       /collection?id=AUID   one of them
//	/urls?id=AUID          its URLs               /url?id=AUID&url=URL  versions of one
//	/content?id=…&url=…    the bytes of one, made harmless (serve.View)
//	/polls /poll?key=K     audits                 /votes                ours in those of others
//	/crawls /crawl?id=N    collecting             /repairs              what was put right
//	/peers                 the other nodes, and how far we agree on each collection
//	/disks                 disks and box          /titles               what can be added
//	/plugins /settings     what is loaded, which parameters are in force
//	/actions               the audit trail        /login                and logout
//
// Reading needs a login, the bytes of content the role accessContentRole. What changes
// something is a form sent by POST with the token of the session, needs the role auAdminRole,
// and is recorded in the audit trail; GET changes nothing. A page that shows something
// running loads itself again.
//
// The pages do not check the client's address: wrap them in account.Filter.Guard.
package web

import (
	"bytes"
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"armarium/daemon/account"
	"armarium/daemon/lockss"
	"armarium/daemon/status"
	"armarium/daemon/store"
)

//go:embed templates static
var files embed.FS

const (
	maxForm    = 64 << 10         // bytes
	actionTime = 30 * time.Second // longest action
	refresh    = 10               // seconds, of pages with something running
	rows       = 100              // of a history or list on one page
)

// policy of all pages: nothing but our own style sheet and images, in no frame.
const policy = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// Config of the pages. All but Log are required.
type Config struct {
	Accounts *account.Accounts
	Sources  status.Sources
	Actions  status.Actions
	Trail    status.Trail
	// Content finds a version of a URL, with number 0 the current one. Errors wrap
	// store.ErrNotPreserved or store.ErrNoUnit.
	Content func(au lockss.AUID, url string, number int) (*store.Version, error)
	Log     *slog.Logger // nil: discard
}

type site struct {
	Config
	log   *slog.Logger
	mux   *http.ServeMux
	pages map[string]*template.Template
}

// New returns the pages as a handler.
func New(c Config) (http.Handler, error) {
	if c.Accounts == nil || c.Actions == nil || c.Content == nil {
		return nil, errors.New("web: Accounts, Actions and Content are required")
	}
	s := &site{Config: c, log: c.Log, mux: http.NewServeMux(), pages: map[string]*template.Template{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.parse(); err != nil {
		return nil, err
	}
	s.page("GET /{$}", "", s.home)
	s.page("GET /collections", "", s.collections)
	s.page("GET /collection", "", s.collection)
	s.page("GET /urls", "", s.urls)
	s.page("GET /url", "", s.url)
	s.page("GET /polls", "", s.polls)
	s.page("GET /poll", "", s.poll)
	s.page("GET /votes", "", s.votes)
	s.page("GET /crawls", "", s.crawls)
	s.page("GET /crawl", "", s.crawl)
	s.page("GET /repairs", "", s.repairs)
	s.page("GET /peers", "", s.peers)
	s.page("GET /disks", "", s.disks)
	s.page("GET /titles", "", s.titles)
	s.page("GET /plugins", "", s.list("plugins", "titles"))
	s.page("GET /settings", "", s.list("config", "settings"))
	s.page("GET /actions", "", s.list("actions", "settings"))
	s.action("POST /collection/crawl", "asked for crawl", s.askCrawl)
	s.action("POST /collection/poll", "asked for poll", s.askPoll)
	s.action("POST /titles/add", "added collection", s.add)
	s.mux.HandleFunc("GET /content", s.content)
	s.mux.HandleFunc("GET /login", s.loginForm)
	s.mux.HandleFunc("POST /login", s.login)
	s.mux.HandleFunc("POST /logout", s.logout)
	s.mux.HandleFunc("GET /static/{name}", s.static)
	s.mux.HandleFunc("GET /Home", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/", http.StatusMovedPermanently) })
	s.page("/", "", func(*http.Request, *account.Identity) (view, error) { return view{}, errNoPage })
	return s, nil
}

// ServeHTTP answers one request.
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Content-Type-Options", "nosniff")
	// Not no-referrer: with it browsers send forms with the origin "null", which cannot be
	// told from another site's.
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	s.mux.ServeHTTP(w, r)
}

// A view is what one page shows.
type view struct {
	Template string // file name without .html
	Title    string
	Nav      string // entry of the navigation that is current
	Busy     bool   // something is running: the page loads itself again
	Data     any
}

// frame is what every page shows around its view.
type frame struct {
	view
	Box     status.BoxRow
	User    string
	Token   string
	CanAct  bool // may use the buttons
	Done    string
	Refresh int
	Now     time.Time
	Query   url.Values
}

var (
	errNoPage = fmt.Errorf("this page: %w", status.ErrNotFound)
	errRole   = errors.New("you are not authorized to use this function")
)

// page serves a view to those who are logged in.
func (s *site) page(pattern, role string, f func(*http.Request, *account.Identity) (view, error)) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		id := s.identify(w, r)
		if id == nil {
			return
		}
		if role != "" && !id.User.Has(role) {
			s.fail(w, r, id, errRole)
			return
		}
		v, err := f(r, id)
		if err != nil {
			s.fail(w, r, id, err)
			return
		}
		s.show(w, r, id, http.StatusOK, v)
	})
}

// action serves a form: f does it and tells what was acted on and which page to go to.
func (s *site) action(pattern, what string, f func(context.Context, *http.Request) (object, next string, err error)) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		id := s.identify(w, r)
		if id == nil {
			return
		}
		if err := s.Accounts.CheckIntent(r, id); err != nil {
			s.fail(w, r, id, err)
			return
		}
		if !id.User.Has(account.RoleAUAdmin) {
			s.fail(w, r, id, errRole)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), actionTime)
		defer cancel()
		object, next, err := f(ctx, r)
		s.Trail.Add(id.User.Name, account.ClientAddr(r), what, object, err)
		if err != nil {
			s.fail(w, r, id, err)
			return
		}
		http.Redirect(w, r, next, http.StatusSeeOther)
	})
}

// identify finds who asks; others it sends to the login, or asks for Basic credentials if
// they are no browser, and gives nil.
func (s *site) identify(w http.ResponseWriter, r *http.Request) *account.Identity {
	id, err := s.Accounts.Identify(r)
	if err == nil {
		return id
	}
	if errors.Is(err, account.ErrNoLogin) && strings.Contains(r.Header.Get("Accept"), "text/html") {
		to := "/login"
		if r.Method == http.MethodGet && r.URL.Path != "/" {
			to += "?next=" + url.QueryEscape(r.URL.RequestURI())
		}
		http.Redirect(w, r, to, http.StatusSeeOther)
		return nil
	}
	var throttled *account.ThrottledError
	if errors.As(err, &throttled) {
		setRetry(w, throttled)
		http.Error(w, err.Error(), http.StatusTooManyRequests)
		return nil
	}
	w.Header().Set("WWW-Authenticate", `Basic realm="`+account.Realm+`"`)
	http.Error(w, err.Error(), http.StatusUnauthorized)
	return nil
}

func setRetry(w http.ResponseWriter, t *account.ThrottledError) {
	w.Header().Set("Retry-After", strconv.Itoa(int(t.Retry/time.Second)+1))
}

// show sends a page, made whole before anything is sent.
func (s *site) show(w http.ResponseWriter, r *http.Request, id *account.Identity, code int, v view) {
	f := frame{view: v, Now: time.Now(), Query: r.URL.Query()}
	if s.Sources.Box != nil {
		f.Box = s.Sources.Box()
	}
	f.Box.Host = cmp.Or(f.Box.Host, "LOCKSS box")
	if id != nil {
		f.User, f.Token = id.User.Name, id.Token
		f.CanAct = id.Token != "" && id.User.Has(account.RoleAUAdmin)
		f.Done = done[f.Query.Get("done")]
	}
	if v.Busy {
		f.Refresh = refresh
	}
	var b bytes.Buffer
	if err := s.pages[v.Template].ExecuteTemplate(&b, "layout.html", f); err != nil {
		s.log.Error("page could not be made", "page", v.Template, "err", err)
		http.Error(w, "This page could not be made; the daemon's log says why.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(code)
	w.Write(b.Bytes())
}

// done is what a page says after an action. Only these words can be put there.
var done = map[string]string{
	"crawl": "The crawl was asked for. It begins as soon as the publisher's limits and the running crawls allow.",
	"poll":  "The poll was asked for. It begins within a few moments.",
	"add":   "The collection was added. Its first crawl begins soon.",
}

// trouble is the data of an error page.
type trouble struct {
	Code       int
	Text, Hint string
}

// fail sends an error page.
func (s *site) fail(w http.ResponseWriter, r *http.Request, id *account.Identity, err error) {
	t := trouble{Code: http.StatusInternalServerError, Text: err.Error(), Hint: cmp.Or(status.Hint(err), "The daemon's log says more.")}
	title := "Something went wrong"
	var tooLong *http.MaxBytesError
	switch {
	case errors.Is(err, status.ErrNotFound), errors.Is(err, store.ErrNotPreserved), errors.Is(err, store.ErrNoUnit):
		t.Code, title, t.Hint = http.StatusNotFound, "There is no such thing", status.Hint(err)
	case errors.Is(err, account.ErrForged):
		t.Code, title = http.StatusForbidden, "This was not done"
		t.Hint = "Go back to the page, load it again and press the button there. Programs use the API, or send " + account.RequestHeader + ": 1."
	case errors.Is(err, errRole):
		t.Code, title, t.Hint = http.StatusForbidden, "You may not do this", "Ask the administrator of this box."
	case errors.Is(err, status.ErrBusy):
		t.Code, title, t.Hint = http.StatusConflict, "This was not done", status.Hint(err)
	case errors.Is(err, status.ErrRefused):
		t.Code, title, t.Hint = http.StatusUnprocessableEntity, "This was not done", status.Hint(err)
	case errors.As(err, &tooLong):
		t.Code, title, t.Hint = http.StatusRequestEntityTooLarge, "This was not done", "The form was too long."
	default:
		s.log.Error("page could not be served", "path", r.URL.Path, "err", err)
	}
	s.show(w, r, id, t.Code, view{Template: "error", Title: title, Data: t})
}

func (s *site) static(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	b, err := files.ReadFile("static/" + name)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	types := map[string]string{".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
	w.Header().Set("Content-Type", types[path.Ext(name)])
	w.Header().Set("Cache-Control", "max-age=300")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.Write(b)
}

// loginPage is the data of the login form.
type loginPage struct {
	Next, Fault string
	NoUsers     bool
}

func (s *site) loginForm(w http.ResponseWriter, r *http.Request) {
	if _, err := s.Accounts.Identify(r); err == nil {
		http.Redirect(w, r, localPath(r.FormValue("next")), http.StatusSeeOther)
		return
	}
	s.showLogin(w, r, http.StatusOK, "")
}

func (s *site) showLogin(w http.ResponseWriter, r *http.Request, code int, fault string) {
	s.show(w, r, nil, code, view{Template: "login", Title: "Log in",
		Data: loginPage{Next: localPath(r.FormValue("next")), Fault: fault, NoUsers: s.Accounts.Users() == 0}})
}

func (s *site) login(w http.ResponseWriter, r *http.Request) {
	name := r.PostFormValue("user")
	id, err := s.Accounts.Login(w, r, name, r.PostFormValue("password"))
	var throttled *account.ThrottledError
	switch {
	case err == nil:
		s.Trail.Add(id.User.Name, account.ClientAddr(r), "logged in", "", nil)
		http.Redirect(w, r, localPath(r.PostFormValue("next")), http.StatusSeeOther)
	case errors.As(err, &throttled):
		setRetry(w, throttled)
		s.showLogin(w, r, http.StatusTooManyRequests, "There were too many wrong passwords. Please wait a little, then try again.")
	case errors.Is(err, account.ErrForged):
		s.showLogin(w, r, http.StatusForbidden, "Please log in with this form.")
	default:
		s.log.Warn("login refused", "user", name, "client", account.ClientAddr(r))
		s.showLogin(w, r, http.StatusUnauthorized, "The name or the password is wrong.")
	}
}

func (s *site) logout(w http.ResponseWriter, r *http.Request) {
	if id, err := s.Accounts.Identify(r); err == nil {
		if err := s.Accounts.CheckIntent(r, id); err != nil {
			s.fail(w, r, id, err)
			return
		}
		s.Trail.Add(id.User.Name, account.ClientAddr(r), "logged out", "", nil)
	}
	s.Accounts.Logout(w, r)
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

// localPath keeps a redirect on this site.
func localPath(p string) string {
	if !strings.HasPrefix(p, "/") || strings.HasPrefix(p, "//") || strings.ContainsAny(p, "\\\r\n\t") {
		return "/"
	}
	return p
}
