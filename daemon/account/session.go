package account

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"time"
)

// Names of what requests carry.
const (
	cookieName    = "armarium_session"
	TokenField    = "csrf"               // form field with the session's token
	tokenHeader   = "X-Csrf-Token"       // or header
	RequestHeader = "X-Armarium-Request" // "1" with Basic credentials
	Realm         = "LOCKSS Admin"       // as 1.x (admin.md 2.1)
)

// An Identity is who sent a request.
type Identity struct {
	User  User
	Token string // for forms; "" with Basic credentials
}

// Identify finds out who sent a request: by its session, else by Basic credentials. Errors are
// ErrNoLogin (neither, or the session has ended), ErrWrong and *ThrottledError.
func (a *Accounts) Identify(r *http.Request) (*Identity, error) {
	id, err := a.resume(r)
	if err == nil {
		return id, nil
	}
	name, password, ok := r.BasicAuth()
	if !ok {
		return nil, err
	}
	u, err := a.Check(ClientAddr(r), name, password)
	if err != nil {
		return nil, err
	}
	return &Identity{User: u}, nil
}

// resume finds the request's session.
func (a *Accounts) resume(r *http.Request) (*Identity, error) {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return nil, ErrNoLogin
	}
	key := sha256.Sum256([]byte(c.Value))
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.sessions[key]
	now := time.Now()
	if s == nil {
		return nil, ErrNoLogin
	}
	if a.ended(s, now) {
		delete(a.sessions, key)
		return nil, ErrNoLogin
	}
	s.seen = now
	return &Identity{User: a.users[s.user], Token: a.token(c.Value)}, nil
}

func (a *Accounts) ended(s *session, now time.Time) bool {
	return now.Sub(s.seen) > a.inactivity || now.Sub(s.started) > sessionLife
}

// Login checks name and password, begins a session and sets its cookie. A session that the
// request had ends. Errors are ErrForged (the form came from another site), ErrWrong and
// *ThrottledError.
func (a *Accounts) Login(w http.ResponseWriter, r *http.Request, name, password string) (*Identity, error) {
	if a.cross.Check(r) != nil {
		return nil, ErrForged
	}
	u, err := a.Check(ClientAddr(r), name, password)
	if err != nil {
		return nil, err
	}
	a.end(r)
	value := newSecret()
	now := time.Now()
	a.mu.Lock()
	a.makeRoom(now)
	a.sessions[sha256.Sum256([]byte(value))] = &session{user: u.Name, password: u.Password, started: now, seen: now}
	a.mu.Unlock()
	setCookie(w, r, value, 0)
	return &Identity{User: u, Token: a.token(value)}, nil
}

// Logout ends the request's session, if it has one, and drops its cookie.
func (a *Accounts) Logout(w http.ResponseWriter, r *http.Request) {
	a.end(r)
	setCookie(w, r, "", -1)
}

func (a *Accounts) end(r *http.Request) {
	if c, err := r.Cookie(cookieName); err == nil {
		a.mu.Lock()
		delete(a.sessions, sha256.Sum256([]byte(c.Value)))
		a.mu.Unlock()
	}
}

// makeRoom drops ended sessions, and the one unused for longest when there are too many.
func (a *Accounts) makeRoom(now time.Time) {
	var oldest [32]byte
	var seen time.Time
	for k, s := range a.sessions {
		if a.ended(s, now) {
			delete(a.sessions, k)
		} else if seen.IsZero() || s.seen.Before(seen) {
			oldest, seen = k, s.seen
		}
	}
	if len(a.sessions) >= maxSessions {
		delete(a.sessions, oldest)
	}
}

// CheckIntent tells whether a request that changes something was meant by its sender: nil, or
// ErrForged. It may read the request's form; limit the body before.
func (a *Accounts) CheckIntent(r *http.Request, id *Identity) error {
	if r.Method == http.MethodGet || r.Method == http.MethodHead || a.cross.Check(r) != nil {
		return ErrForged
	}
	if id.Token == "" {
		if r.Header.Get(RequestHeader) != "1" {
			return ErrForged
		}
		return nil
	}
	given := r.Header.Get(tokenHeader)
	if given == "" {
		given = r.PostFormValue(TokenField)
	}
	if !equal(given, id.Token) {
		return ErrForged
	}
	return nil
}

// token is the proof of intent of a session.
func (a *Accounts) token(cookie string) string {
	d := a.digest("token", cookie)
	return base64.RawURLEncoding.EncodeToString(d[:])
}

func newSecret() string {
	b := make([]byte, 32)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

func setCookie(w http.ResponseWriter, r *http.Request, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: value, Path: "/", MaxAge: maxAge,
		HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode,
	})
}
