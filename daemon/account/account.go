// Package account decides who may use the node's pages and services.
//
//	address   a Filter of addresses is asked before anything else (config.md 8.3)
//	user      a name, a password hash and roles; from the platform file or the network
//	login     Basic credentials with each request, or a form and a session cookie
//	change    a request that changes something also proves that its sender meant it
//
// Password hashes, as they stand in the configuration:
//
//	SHA-256:6b86b2…                          digest of the Latin-1 bytes, as 1.x (admin.md 2.3)
//	SHA1:…  SHA-1:…  SHA-512:…  MD5:…        the same
//	$pbkdf2-sha256$i=600000$<salt>$<hash>    ours, base64 without padding, of the UTF-8 bytes
//
// Proof of intent: a session carries a token in its forms (field TokenField, or header
// X-Csrf-Token), an HMAC of the session; a request with Basic credentials has the header
// "X-Armarium-Request: 1", which no form of another site can send. A request that its browser
// marks as coming from another site is refused in either case.
//
// Nothing is stored: sessions and failed attempts are forgotten when the daemon ends.
// All types are safe for concurrent use.
package account

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Roles (admin.md 2.4). RoleUserAdmin implies all others.
const (
	RoleUserAdmin     = "userAdminRole"
	RoleContentAdmin  = "contentAdminRole"
	RoleAUAdmin       = "auAdminRole"
	RoleAccessContent = "accessContentRole"
	RoleDebug         = "debugRole"
)

// Errors of a login.
var (
	ErrNoLogin = errors.New("not logged in")
	ErrWrong   = errors.New("wrong name or password")
	ErrForged  = errors.New("the request does not show that its sender meant it")
)

// A ThrottledError refuses an attempt because too many before it were wrong.
type ThrottledError struct {
	Retry time.Duration // how long to wait, at least
}

func (e *ThrottledError) Error() string {
	return fmt.Sprintf("too many wrong passwords; try again in %v", e.Retry.Round(time.Second))
}

// A User may log in.
type User struct {
	Name     string
	Password string // hash, see the package comment
	Roles    []string
}

// Has tells whether the user has a role, or the one that implies it.
func (u User) Has(role string) bool {
	return slices.Contains(u.Roles, role) || slices.Contains(u.Roles, RoleUserAdmin)
}

// Config of Accounts.
type Config struct {
	Users []User

	// Inactivity ends a session in which nothing was asked for so long.
	Inactivity time.Duration `prop:"org.lockss.ui.maxLoginInactivity" default:"1h"`
}

// Limits of sessions and attempts.
const (
	sessionLife  = 12 * time.Hour // longest session
	maxSessions  = 1000
	freeFailures = 5                // wrong passwords from one address before it has to wait
	nameFailures = 50               // wrong passwords for one name, from anywhere
	failWindow   = 15 * time.Minute // after which failures are forgotten
	maxWait      = 5 * time.Minute  // longest wait between two attempts
	maxFailing   = 10000            // addresses and names remembered
	maxHashing   = 2                // passwords hashed at a time; others wait
	maxPassword  = 1024             // bytes
	maxVerified  = 100              // Basic credentials whose hash need not be computed again
	maxPlaces    = 1000             // addresses and names that logged in
)

// Accounts knows the users and who is logged in.
type Accounts struct {
	inactivity time.Duration
	key        []byte // of tokens and remembered credentials; new in each run
	hashing    chan struct{}
	cross      *http.CrossOriginProtection

	mu       sync.Mutex
	users    map[string]User
	sessions map[[32]byte]*session // by digest of the cookie's value
	failures map[string]*failures
	verified map[[32]byte]string // digest of credentials → name
	places   map[[32]byte]bool   // digests of address and name that logged in
}

type session struct {
	user          string
	password      string // hash when it began: a changed password ends the session
	started, seen time.Time
}

type failures struct {
	n     int
	last  time.Time
	until time.Time // no attempt before
}

// New returns accounts with the users of c. It fails on users that could never log in, all of
// them named in the error.
func New(c Config) (*Accounts, error) {
	a := &Accounts{
		inactivity: c.Inactivity,
		key:        make([]byte, 32),
		hashing:    make(chan struct{}, maxHashing),
		cross:      http.NewCrossOriginProtection(),
		sessions:   map[[32]byte]*session{},
		failures:   map[string]*failures{},
		places:     map[[32]byte]bool{},
	}
	if a.inactivity <= 0 {
		a.inactivity = time.Hour
	}
	rand.Read(a.key)
	return a, a.SetUsers(c.Users)
}

// SetUsers replaces the users. Those with an unusable hash are left out and named in the
// error; of several with one name the first counts (admin.md 2.2). Sessions of users that
// are gone, or whose password changed, end.
func (a *Accounts) SetUsers(users []User) error {
	var errs []error
	set := map[string]User{}
	for _, u := range users {
		if u.Name == "" {
			errs = append(errs, errors.New("user without a name"))
			continue
		}
		if _, ok := set[u.Name]; ok {
			continue
		}
		if _, err := parseHash(u.Password); err != nil {
			errs = append(errs, fmt.Errorf("user %s cannot log in: %w", u.Name, err))
			continue
		}
		u.Roles = slices.Clone(u.Roles)
		set[u.Name] = u
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.users = set
	a.verified = map[[32]byte]string{}
	for k, s := range a.sessions {
		if u, ok := set[s.user]; !ok || u.Password != s.password {
			delete(a.sessions, k)
		}
	}
	return errors.Join(errs...)
}

// Users tells how many users can log in.
func (a *Accounts) Users() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.users)
}

// Check verifies a name and a password given by the client at addr. Its errors are ErrWrong
// and *ThrottledError. An unknown name takes as long as a wrong password.
func (a *Accounts) Check(addr netip.Addr, name, password string) (User, error) {
	if len(name) > maxPassword {
		name = name[:maxPassword] // nobody has such a name; it must not be remembered at length
	}
	keys := []string{"a " + addressKey(addr), "n " + name}
	place := a.digest("place", keys...)
	a.mu.Lock()
	if a.places[place] {
		// Who logged in from here before is not kept out by what others try with his name.
		keys = keys[:1]
	}
	now := time.Now()
	if wait := a.wait(now, keys); wait > 0 {
		a.mu.Unlock()
		return User{}, &ThrottledError{wait}
	}
	user, known := a.users[name]
	decoy := a.decoy(name)
	digest := a.digest("credentials", name, password)
	remembered, ok := a.verified[digest]
	a.mu.Unlock()
	if ok && known && remembered == name {
		return user, nil
	}

	good := false
	if len(password) <= maxPassword {
		hash := user.Password
		if !known {
			hash = decoy
		}
		a.hashing <- struct{}{}
		// Those that waited here meanwhile see the failures of those before them: many attempts
		// at once are no way around the limit.
		a.mu.Lock()
		wait := a.wait(time.Now(), keys)
		a.mu.Unlock()
		if wait > 0 {
			<-a.hashing
			return User{}, &ThrottledError{wait}
		}
		good = CheckPassword(hash, password) && known
		<-a.hashing
	}

	a.mu.Lock()
	defer a.mu.Unlock()
	now = time.Now()
	if !good {
		a.fail(now, keys)
		return User{}, ErrWrong
	}
	if a.users[name].Password != user.Password { // changed meanwhile
		return User{}, ErrWrong
	}
	for _, k := range keys {
		delete(a.failures, k)
	}
	if len(a.verified) >= maxVerified {
		clear(a.verified)
	}
	a.verified[digest] = name
	if len(a.places) >= maxPlaces {
		clear(a.places)
	}
	a.places[place] = true
	return user, nil
}

// decoy is the hash checked for a name that nobody has: that of a user, so that the time it
// takes tells nothing, and for one name always of the same one. What the check finds does not
// count. The lock is held.
func (a *Accounts) decoy(name string) string {
	if len(a.users) == 0 {
		return decoyHash
	}
	names := slices.Sorted(maps.Keys(a.users))
	d := a.digest("decoy", name)
	return a.users[names[binary.BigEndian.Uint32(d[:])%uint32(len(names))]].Password
}

// wait tells how long the keys have to wait before the next attempt.
func (a *Accounts) wait(now time.Time, keys []string) time.Duration {
	var wait time.Duration
	for _, k := range keys {
		if f := a.failures[k]; f != nil {
			wait = max(wait, f.until.Sub(now))
		}
	}
	return wait
}

// fail counts a wrong password. From the limit on the waits are 1 s, 2 s, 4 s …
func (a *Accounts) fail(now time.Time, keys []string) {
	for i, k := range keys {
		f := a.failures[k]
		if f == nil || now.Sub(f.last) > failWindow {
			if f == nil && len(a.failures) >= maxFailing {
				a.forget(now)
			}
			f = &failures{}
			a.failures[k] = f
		}
		f.n++
		f.last = now
		free := freeFailures
		if i == 1 {
			free = nameFailures
		}
		if over := f.n - free; over >= 0 {
			f.until = now.Add(min(time.Second<<min(over, 20), maxWait))
		}
	}
}

// forget drops failures that no longer count, or all when that frees nothing.
func (a *Accounts) forget(now time.Time) {
	for k, f := range a.failures {
		if now.Sub(f.last) > failWindow {
			delete(a.failures, k)
		}
	}
	if len(a.failures) >= maxFailing {
		clear(a.failures)
	}
}

// addressKey is what failures are counted by: the address, of IPv6 its /64, which one client
// has all of.
func addressKey(addr netip.Addr) string {
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			return p.String()
		}
	}
	return addr.String()
}

// digest is an HMAC of parts under this run's key.
func (a *Accounts) digest(what string, parts ...string) [32]byte {
	m := hmac.New(sha256.New, a.key)
	for _, p := range append([]string{what}, parts...) {
		fmt.Fprintf(m, "%d:%s", len(p), p)
	}
	return [32]byte(m.Sum(nil))
}

// equal compares secrets.
func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// SplitRoles reads a comma list of roles.
func SplitRoles(text string) []string {
	var roles []string
	for r := range strings.SplitSeq(text, ",") {
		if r = strings.TrimSpace(r); r != "" {
			roles = append(roles, r)
		}
	}
	return roles
}
