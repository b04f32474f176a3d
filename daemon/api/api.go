// Package api is the node for programs: REST with JSON below /api/v1/.
//
//	GET  health                       {"state":"ok","reason":""}; from loopback without login.
//	                                  200 while "ok" or "starting", else 503
//	GET  status                       the summary: three questions with verdicts and evidence
//	GET  box                          the node itself
//	GET  aus crawls polls votes       tables: {"name","title","columns":[{"name","title","type"}],
//	     peers agreements repairs              "rows":[{column name: raw value}],"next"}
//	     titles plugins disks                  a value that is not known or never was is left out
//	     actions config
//	GET  aus/{id}                     one collection, with its latest crawls, polls and repairs
//	GET  aus/{id}/urls?after=&limit=  its URLs; "next" is the "after" of the next page
//	GET  aus/{id}/versions?url=       the versions of one URL
//	GET  crawls/{id}                  one crawl, with the URLs that it could not fetch
//	GET  polls/{key}                  one poll, with participants and damage
//	POST aus                          add a collection: {"title":KEY} or {"plugin":ID,"params":{…}};
//	                                  also "name", "disk" → 201 {"au":ID}
//	POST aus/{id}/crawl               ask for a crawl now → 202 {"au":ID}
//	POST aus/{id}/poll                ask for a poll now → 202 {"au":ID}
//
// An id is a path segment: the AUID with its reserved characters escaped (| as %7C, % as %25).
// Tables take ?limit=, histories also ?before= (RFC 3339) and ?au=; ?format=csv and
// ?format=text give the table in these forms. Times are RFC 3339 in UTC, durations
// nanoseconds, agreements fractions.
//
// Errors: {"error":"what","hint":"what to do"}. 400 the request is wrong, 401 no login, 403 the
// role or the proof of intent is missing, 404 there is no such thing, 409 it is being done
// already, 413 the body is too long, 415 the body is not JSON, 422 it cannot be done, 429 too
// many wrong passwords.
//
// Login: Basic credentials or the session of the pages. A request that changes something also
// needs the header "X-Armarium-Request: 1" with Basic credentials, and with a session the
// header X-Csrf-Token; see package account. GET never changes anything.
package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"armarium/daemon/account"
	"armarium/daemon/lockss"
	"armarium/daemon/status"
)

// Actions and AddRequest are those of package status, where the pages find them too.
type (
	Actions    = status.Actions
	AddRequest = status.AddRequest
)

// Prefix is where the services are.
const Prefix = "/api/v1/"

const (
	maxBody    = 64 << 10         // bytes of a request
	actionTime = 30 * time.Second // longest action
	latest     = 10               // entries of each history with a collection
)

// Config of the services. All but Log are required.
type Config struct {
	Accounts *account.Accounts
	Sources  status.Sources
	Actions  Actions
	Trail    status.Trail
	Log      *slog.Logger // nil: discard
}

type service struct {
	Config
	log *slog.Logger
	mux *http.ServeMux
}

// New returns the services as a handler of the paths below Prefix.
func New(c Config) (http.Handler, error) {
	if c.Accounts == nil || c.Actions == nil {
		return nil, errors.New("api: Accounts and Actions are required")
	}
	s := &service{Config: c, log: c.Log, mux: http.NewServeMux()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.mux.HandleFunc("GET "+Prefix+"health", s.health)
	s.get("status", func(*http.Request) (any, error) { return s.Sources.Summary(time.Now()), nil })
	s.get("box", s.box)
	for _, name := range status.Names() {
		s.get(name, s.table(name, nil))
	}
	s.get("aus/{id}", s.au)
	s.get("aus/{id}/urls", s.table("urls", pathID))
	s.get("aus/{id}/versions", s.table("versions", pathID))
	s.get("crawls/{id}", s.crawl)
	s.get("polls/{key}", s.poll)
	s.change("aus", "added collection", http.StatusCreated, s.add)
	s.change("aus/{id}/crawl", "asked for crawl", http.StatusAccepted, s.act(s.Actions.Crawl))
	s.change("aus/{id}/poll", "asked for poll", http.StatusAccepted, s.act(s.Actions.Poll))
	s.mux.HandleFunc(Prefix, func(w http.ResponseWriter, r *http.Request) {
		if s.login(w, r) != nil {
			fail(w, fmt.Errorf("%s %s: %w", r.Method, r.URL.Path, status.ErrNotFound))
		}
	})
	return s, nil
}

// ServeHTTP answers one request.
func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	s.mux.ServeHTTP(w, r)
}

// login finds out who asks, and answers those who may not; then it gives nil.
func (s *service) login(w http.ResponseWriter, r *http.Request) *account.Identity {
	id, err := s.Accounts.Identify(r)
	if err != nil {
		fail(w, err)
		return nil
	}
	return id
}

// get serves what f gives.
func (s *service) get(path string, f func(*http.Request) (any, error)) {
	s.mux.HandleFunc("GET "+Prefix+path, func(w http.ResponseWriter, r *http.Request) {
		if s.login(w, r) == nil {
			return
		}
		v, err := f(r)
		if err != nil {
			s.fault(r, err)
			fail(w, err)
			return
		}
		if t, ok := v.(*status.Table); ok && sendTable(w, r, t) {
			return
		}
		send(w, http.StatusOK, v)
	})
}

// change serves what f does, and records it.
func (s *service) change(path, what string, code int, f func(ctx context.Context, r *http.Request) (lockss.AUID, error)) {
	s.mux.HandleFunc("POST "+Prefix+path, func(w http.ResponseWriter, r *http.Request) {
		id := s.login(w, r)
		if id == nil {
			return
		}
		if err := s.Accounts.CheckIntent(r, id); err != nil {
			fail(w, err)
			return
		}
		if !id.User.Has(account.RoleAUAdmin) {
			fail(w, errRole)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), actionTime)
		defer cancel()
		au, err := f(ctx, r)
		s.Trail.Add(id.User.Name, account.ClientAddr(r), what, string(au), err)
		if err != nil {
			s.fault(r, err)
			fail(w, err)
			return
		}
		send(w, code, map[string]lockss.AUID{"au": au})
	})
}

// fault logs an error that is not the client's.
func (s *service) fault(r *http.Request, err error) {
	if code, _ := explain(err); code == http.StatusInternalServerError {
		s.log.Error("request could not be answered", "path", r.URL.Path, "err", err)
	}
}

func (s *service) health(w http.ResponseWriter, r *http.Request) {
	if !account.ClientAddr(r).IsLoopback() && s.login(w, r) == nil {
		return
	}
	h := status.Health{State: "unknown", Reason: "the node does not tell its health"}
	if s.Sources.Health != nil {
		h = s.Sources.Health()
	}
	code := http.StatusServiceUnavailable
	if h.State == status.HealthOK || h.State == status.HealthStarting {
		code = http.StatusOK // alive: whoever supervises the daemon need not act
	}
	send(w, code, h)
}

func (s *service) box(*http.Request) (any, error) {
	if s.Sources.Box == nil {
		return nil, fmt.Errorf("box: %w", status.ErrNotFound)
	}
	return s.Sources.Box(), nil
}

func pathID(r *http.Request) string { return r.PathValue("id") }

// table serves a table; key gives its key, if it needs one.
func (s *service) table(name string, key func(*http.Request) string) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		p, err := params(r)
		if err != nil {
			return nil, err
		}
		if key != nil {
			p.Key = key(r)
			if _, err := s.Sources.FindAU(lockss.AUID(p.Key)); err != nil {
				return nil, err
			}
		}
		return s.Sources.Table(name, p)
	}
}

// params reads what selects rows.
func params(r *http.Request) (status.Params, error) {
	q := r.URL.Query()
	p := status.Params{AU: lockss.AUID(q.Get("au")), After: q.Get("after"), URL: q.Get("url")}
	if text := q.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > status.MaxLimit {
			return p, badRequest{fmt.Sprintf("limit %q is not a number from 1 to %d", text, status.MaxLimit)}
		}
		p.Limit = n
	}
	if text := q.Get("before"); text != "" {
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return p, badRequest{fmt.Sprintf("before %q is not a time like 2026-11-21T12:00:00Z", text)}
		}
		p.Before = t
	}
	return p, nil
}

func (s *service) au(r *http.Request) (any, error) {
	row, err := s.Sources.FindAU(lockss.AUID(r.PathValue("id")))
	if err != nil {
		return nil, err
	}
	v := struct {
		status.AURow
		State   string             `json:"state"`
		Crawls  []status.CrawlRow  `json:"crawls"`
		Polls   []status.PollRow   `json:"polls"`
		Repairs []status.RepairRow `json:"repairs"`
	}{AURow: row, State: row.State()}
	q := status.Query{AU: row.AU, Limit: latest}
	if s.Sources.Crawls != nil {
		if v.Crawls, err = s.Sources.Crawls(q); err != nil {
			return nil, err
		}
	}
	if s.Sources.Polls != nil {
		if v.Polls, err = s.Sources.Polls(q); err != nil {
			return nil, err
		}
	}
	if s.Sources.Repairs != nil {
		if v.Repairs, err = s.Sources.Repairs(q); err != nil {
			return nil, err
		}
	}
	return v, nil
}

func (s *service) crawl(r *http.Request) (any, error) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil || s.Sources.Crawl == nil {
		return nil, fmt.Errorf("crawl %s: %w", r.PathValue("id"), status.ErrNotFound)
	}
	return s.Sources.Crawl(id)
}

func (s *service) poll(r *http.Request) (any, error) {
	if s.Sources.Poll == nil {
		return nil, fmt.Errorf("poll %s: %w", r.PathValue("key"), status.ErrNotFound)
	}
	return s.Sources.Poll(r.PathValue("key"))
}

func (s *service) act(do func(context.Context, lockss.AUID) error) func(context.Context, *http.Request) (lockss.AUID, error) {
	return func(ctx context.Context, r *http.Request) (lockss.AUID, error) {
		au := lockss.AUID(r.PathValue("id"))
		if _, err := s.Sources.FindAU(au); err != nil {
			return au, err
		}
		return au, do(ctx, au)
	}
}

func (s *service) add(ctx context.Context, r *http.Request) (lockss.AUID, error) {
	var req AddRequest
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return "", errNotJSON
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&req); err != nil {
		var tooLong *http.MaxBytesError
		if errors.As(err, &tooLong) {
			return "", err
		}
		return "", badRequest{"the body is not as described: " + strings.TrimPrefix(err.Error(), "json: ")}
	}
	if _, err := d.Token(); err != io.EOF {
		return "", badRequest{"the body has something after the object"}
	}
	if err := req.Check(); err != nil {
		return "", err
	}
	return s.Actions.AddAU(ctx, req)
}

// A badRequest is what is wrong with a request.
type badRequest struct{ msg string }

func (e badRequest) Error() string { return e.msg }

var (
	errRole    = errors.New("this user may not do this")
	errNotJSON = errors.New("the body is not JSON")
)

// explain gives the status of an error, and a hint where the error has none itself.
func explain(err error) (code int, hint string) {
	var bad badRequest
	var throttled *account.ThrottledError
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &bad):
		return http.StatusBadRequest, ""
	case errors.Is(err, account.ErrNoLogin), errors.Is(err, account.ErrWrong):
		return http.StatusUnauthorized, "send the administrator's name and password as Basic credentials"
	case errors.As(err, &throttled):
		return http.StatusTooManyRequests, ""
	case errors.Is(err, account.ErrForged):
		return http.StatusForbidden, "with Basic credentials send the header " + account.RequestHeader + ": 1; with a session X-Csrf-Token"
	case errors.Is(err, errRole):
		return http.StatusForbidden, "the role " + account.RoleAUAdmin + " is needed"
	case errors.Is(err, errNotJSON):
		return http.StatusUnsupportedMediaType, "send Content-Type: application/json"
	case errors.As(err, &tooLong):
		return http.StatusRequestEntityTooLarge, fmt.Sprintf("send at most %d bytes", maxBody)
	case errors.Is(err, status.ErrNotFound):
		return http.StatusNotFound, ""
	case errors.Is(err, status.ErrBusy):
		return http.StatusConflict, ""
	case errors.Is(err, status.ErrRefused):
		return http.StatusUnprocessableEntity, ""
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable, "try again later"
	}
	return http.StatusInternalServerError, "the daemon's log says more"
}

// fail sends an error.
func fail(w http.ResponseWriter, err error) {
	code, hint := explain(err)
	if own := status.Hint(err); own != "" {
		hint = own
	}
	var throttled *account.ThrottledError
	if errors.As(err, &throttled) {
		w.Header().Set("Retry-After", strconv.Itoa(int(throttled.Retry/time.Second)+1))
	}
	if code == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="`+account.Realm+`"`)
	}
	send(w, code, struct {
		Error string `json:"error"`
		Hint  string `json:"hint,omitempty"`
	}{err.Error(), hint})
}

// send encodes before it answers, so that a value that cannot be encoded is an error and not
// half an answer.
func send(w http.ResponseWriter, code int, v any) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		code = http.StatusInternalServerError
		b.Reset()
		b.WriteString(`{"error":"the answer could not be encoded"}` + "\n")
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(code)
	w.Write(b.Bytes())
}

// sendTable sends a table in another form than JSON, if one was asked for.
func sendTable(w http.ResponseWriter, r *http.Request, t *status.Table) bool {
	var b bytes.Buffer
	var err error
	typ := "text/plain; charset=utf-8"
	switch format := r.URL.Query().Get("format"); format {
	case "", "json":
		return false
	case "csv":
		typ = "text/csv; charset=utf-8"
		err = t.WriteCSV(&b)
	case "text":
		err = t.WriteText(&b)
	default:
		err = badRequest{"format is json, csv or text"}
	}
	if err != nil {
		fail(w, err)
		return true
	}
	w.Header().Set("Content-Type", typ)
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.Write(b.Bytes())
	return true
}
