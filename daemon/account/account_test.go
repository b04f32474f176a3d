package account

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// hashOf1 is the SHA-256 of "1".
const hashOf1 = "SHA-256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"

func TestCheckPassword(t *testing.T) {
	own, err := HashPassword("Zürich ☃")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, hash, password string
		want                 bool
	}{
		{"sha-256", hashOf1, "1", true},
		{"sha-256, upper case", strings.ToUpper(hashOf1), "1", true},
		{"sha-256, wrong", hashOf1, "2", false},
		{"sha-1", "SHA-1:356a192b7913b04c54574d18c28d46e6395428ab", "1", true},
		{"sha1", "SHA1:356A192B7913B04C54574D18C28D46E6395428AB", "1", true},
		{"md5", "MD5:c4ca4238a0b923820dcc509a6f75849b", "1", true},
		{"Latin-1 bytes are hashed, as Java", "MD5:cf0eece3a23b680f6266a21aabba4d32", "ü", true},
		{"not UTF-8 bytes", "MD5:c03410a5204b21cd8229ff754688d743", "ü", false},
		{"own", own, "Zürich ☃", true},
		{"own, wrong", own, "Zurich ☃", false},
		{"empty password", "SHA-1:da39a3ee5e6b4b0d3255bfef95601890afd80709", "", false},
		{"digest too short", "SHA-256:6b86", "1", false},
		{"unknown algorithm", "CRC:00", "1", false},
		{"plain text", "1", "1", false},
		{"nothing", "", "", false},
		{"rounds missing", "$pbkdf2-sha256$AAAAAAAAAAAAAAAAAAAAAA$AAAA", "1", false},
		{"too many rounds", "$pbkdf2-sha256$i=99999999999$AAAAAAAAAAAAAAAAAAAAAA$AAAA", "1", false},
	} {
		if got := CheckPassword(c.hash, c.password); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
	if again, _ := HashPassword("Zürich ☃"); again == own {
		t.Error("two hashes of one password are equal: no salt")
	}
}

func TestLatin1(t *testing.T) {
	if got := string(latin1("aü☃𝄞")); got != "a\xfc??" {
		t.Errorf("got %q", got)
	}
}

func FuzzParseHash(f *testing.F) {
	f.Add(hashOf1)
	f.Add(decoyHash)
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := parseHash(s); err == nil && (p.rounds > maxRounds || len(p.sum) == 0) {
			t.Errorf("%q accepted as %+v", s, p)
		}
	})
}

func TestFilter(t *testing.T) {
	for _, c := range []struct {
		name             string
		include, exclude string
		addr             string
		want             bool
	}{
		{"nothing configured", "", "", "192.0.2.7", false},
		{"loopback always", "", "", "127.0.0.1", true},
		{"loopback even if excluded", "", "127.0.0.0/8", "127.1.2.3", true},
		{"loopback, IPv6", "", "", "::1", true},
		{"one address", "192.0.2.7", "", "192.0.2.7", true},
		{"another", "192.0.2.7", "", "192.0.2.8", false},
		{"star", "192.0.2.*", "", "192.0.2.8", true},
		{"three stars", "10.*.*.*", "", "10.9.8.7", true},
		{"star outside", "192.0.2.*", "", "192.0.3.8", false},
		{"cidr", "192.0.2.0/25", "", "192.0.2.127", true},
		{"cidr outside", "192.0.2.0/25", "", "192.0.2.128", false},
		{"mask", "192.0.2.0/255.255.255.0", "", "192.0.2.200", true},
		{"excluded", "192.0.2.0/24", "192.0.2.7", "192.0.2.7", false},
		{"IPv4 in IPv6", "192.0.2.0/24", "", "::ffff:192.0.2.1", true},
		{"IPv6", "2001:db8::/32", "", "2001:db8:1::1", true},
		{"IPv6 with zone", "fe80::/10", "", "fe80::1%eth0", true},
		{"comment", "# 192.0.2.7;192.0.2.8", "", "192.0.2.7", false},
		{"bad include is left out", "bogus;192.0.2.8", "", "192.0.2.8", true},
	} {
		var f Filter
		if _, err := f.Set(strings.Split(c.include, ";"), strings.Split(c.exclude, ";")); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if got := f.Allows(netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("%s: %s with include %q, exclude %q: got %v, want %v", c.name, c.addr, c.include, c.exclude, got, c.want)
		}
	}
}

func TestFilterMalformed(t *testing.T) {
	for _, bad := range []string{"*.*.*.*", "1.2.*.4", "1.2.*", "1.2.3.4/33", "1.2.3.4/255.0.255.0", "1.2.3.4/+8", "fe80::1%eth0", "1.2.3.4/", "host.example", "1.2.3.400"} {
		var f Filter
		if _, err := f.Set([]string{"192.0.2.7"}, nil); err != nil {
			t.Fatal(err)
		}
		if warnings, err := f.Set([]string{"192.0.2.7", bad}, nil); err != nil || len(warnings) != 1 {
			t.Errorf("include %q: got %v, %v, want one warning", bad, warnings, err)
		}
		if _, err := f.Set([]string{"0.0.0.0/0"}, []string{bad}); err == nil {
			t.Errorf("exclude %q: accepted", bad)
		}
		if !f.Allows(netip.MustParseAddr("192.0.2.7")) || f.Allows(netip.MustParseAddr("192.0.2.8")) {
			t.Errorf("exclude %q: the old lists are not in force", bad)
		}
	}
}

func newAccounts(t *testing.T) *Accounts {
	t.Helper()
	a, err := New(Config{Users: []User{{Name: "admin", Password: hashOf1, Roles: []string{RoleUserAdmin}}}, Inactivity: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

var client = netip.MustParseAddr("192.0.2.7")

func TestThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAccounts(t)
		for i := range freeFailures {
			if _, err := a.Check(client, "admin", "no"); !errors.Is(err, ErrWrong) {
				t.Fatalf("attempt %d: %v, want ErrWrong", i, err)
			}
		}
		var throttled *ThrottledError
		if _, err := a.Check(client, "admin", "1"); !errors.As(err, &throttled) || throttled.Retry != time.Second {
			t.Fatalf("right password after %d wrong ones: %v, want to wait 1 s", freeFailures, err)
		}
		if _, err := a.Check(netip.MustParseAddr("192.0.2.8"), "admin", "1"); err != nil {
			t.Errorf("from another address: %v", err)
		}
		time.Sleep(time.Second)
		if _, err := a.Check(client, "admin", "no"); !errors.Is(err, ErrWrong) {
			t.Errorf("after the wait: %v, want ErrWrong", err)
		}
		if _, err := a.Check(client, "admin", "1"); !errors.As(err, &throttled) || throttled.Retry != 2*time.Second {
			t.Errorf("second wait: %v, want 2 s", err)
		}
		time.Sleep(2 * time.Second)
		if _, err := a.Check(client, "admin", "1"); err != nil {
			t.Errorf("right password after the wait: %v", err)
		}
		if _, err := a.Check(client, "admin", "no"); !errors.Is(err, ErrWrong) {
			t.Errorf("the count did not start anew: %v", err)
		}
	})
}

func TestThrottleManyAtOnce(t *testing.T) {
	a := newAccounts(t)
	var mu sync.Mutex
	wrong := 0
	var g sync.WaitGroup
	for i := range 200 {
		g.Go(func() {
			_, err := a.Check(client, "admin", fmt.Sprint("guess ", i))
			mu.Lock()
			defer mu.Unlock()
			if errors.Is(err, ErrWrong) {
				wrong++
			}
		})
	}
	g.Wait()
	if wrong > freeFailures+maxHashing {
		t.Errorf("%d of 200 simultaneous guesses were tried, want at most %d", wrong, freeFailures+maxHashing)
	}
}

func TestThrottleByName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAccounts(t)
		home := netip.MustParseAddr("192.0.2.99")
		if _, err := a.Check(home, "admin", "1"); err != nil {
			t.Fatal(err)
		}
		for i := range nameFailures {
			a.Check(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), "admin", "no")
		}
		var throttled *ThrottledError
		if _, err := a.Check(client, "admin", "no"); !errors.As(err, &throttled) {
			t.Errorf("one name tried from %d addresses: %v, want to wait", nameFailures, err)
		}
		if _, err := a.Check(home, "admin", "1"); err != nil {
			t.Errorf("from where admin logged in before: %v", err)
		}
		for range freeFailures {
			a.Check(home, "admin", "no")
		}
		if _, err := a.Check(home, "admin", "1"); !errors.As(err, &throttled) {
			t.Errorf("after wrong passwords from there: %v, want to wait", err)
		}
	})
}

// TestUnknownName: an unknown name costs the same kind of hash as a known one, is never let
// in by it, and is not remembered at length.
func TestUnknownName(t *testing.T) {
	a := newAccounts(t)
	for _, name := range []string{"nobody", strings.Repeat("x", 60<<10)} {
		a.mu.Lock()
		decoy := a.decoy(name)
		a.mu.Unlock()
		if decoy != hashOf1 {
			t.Errorf("%.10s: decoy %q, want the user's %q", name, decoy, hashOf1)
		}
		if _, err := a.Check(client, name, "1"); !errors.Is(err, ErrWrong) {
			t.Errorf("%.10s with the password of another: %v, want ErrWrong", name, err)
		}
	}
	for k := range a.failures {
		if len(k) > maxPassword+2 {
			t.Errorf("a key of %d bytes is remembered", len(k))
		}
	}
	none, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := none.Check(client, "admin", "1"); !errors.Is(err, ErrWrong) {
		t.Errorf("without users: %v, want ErrWrong", err)
	}
}

func TestFailuresAreBounded(t *testing.T) {
	a := newAccounts(t)
	a.mu.Lock()
	for i := range 3 * maxFailing {
		a.fail(time.Now(), []string{fmt.Sprint("a ", i), fmt.Sprint("n ", i)})
	}
	n := len(a.failures)
	a.mu.Unlock()
	if n > maxFailing {
		t.Errorf("%d addresses and names remembered, want at most %d", n, maxFailing)
	}
}

// TestChangedPassword: neither sessions nor remembered credentials outlive a password.
func TestChangedPassword(t *testing.T) {
	a := newAccounts(t)
	r := httptest.NewRequest("POST", "/login", nil)
	w := httptest.NewRecorder()
	if _, err := a.Login(w, r, "admin", "1"); err != nil {
		t.Fatal(err)
	}
	r = httptest.NewRequest("GET", "/", nil)
	r.AddCookie(w.Result().Cookies()[0])
	if _, err := a.Identify(r); err != nil {
		t.Fatal(err)
	}
	hash, _ := HashPassword("new")
	if err := a.SetUsers([]User{{Name: "admin", Password: hash}}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Identify(r); !errors.Is(err, ErrNoLogin) {
		t.Errorf("session after the change: %v, want ErrNoLogin", err)
	}
	if _, err := a.Check(client, "admin", "1"); !errors.Is(err, ErrWrong) {
		t.Errorf("old password after the change: %v, want ErrWrong", err)
	}
	for range 2 { // the second time from memory
		if _, err := a.Check(client, "admin", "new"); err != nil {
			t.Errorf("new password: %v", err)
		}
	}
}

func TestSetUsers(t *testing.T) {
	a, err := New(Config{Users: []User{
		{Name: "first", Password: hashOf1, Roles: []string{RoleAUAdmin}},
		{Name: "first", Password: "SHA-1:356a192b7913b04c54574d18c28d46e6395428ab", Roles: []string{RoleUserAdmin}},
		{Name: "broken", Password: "secret"},
	}})
	if err == nil || !strings.Contains(err.Error(), "broken") || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v, want an error that names the user and not the password", err)
	}
	if a.Users() != 1 {
		t.Errorf("%d users, want 1", a.Users())
	}
	u, err := a.Check(client, "first", "1")
	if err != nil || u.Has(RoleUserAdmin) || !u.Has(RoleAUAdmin) {
		t.Errorf("got %+v, %v: a later user replaced an earlier one", u, err)
	}
}

func TestSessionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAccounts(t)
		w := httptest.NewRecorder()
		if _, err := a.Login(w, httptest.NewRequest("POST", "/login", nil), "admin", "1"); err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest("GET", "/", nil)
		r.AddCookie(w.Result().Cookies()[0])
		for range 11 {
			time.Sleep(time.Hour)
			if _, err := a.Identify(r); err != nil {
				t.Fatalf("in use each hour: %v", err)
			}
		}
		time.Sleep(time.Hour + time.Second)
		if _, err := a.Identify(r); !errors.Is(err, ErrNoLogin) {
			t.Errorf("after 12 hours: %v, want ErrNoLogin", err)
		}
		w = httptest.NewRecorder()
		a.Login(w, httptest.NewRequest("POST", "/login", nil), "admin", "1")
		r = httptest.NewRequest("GET", "/", nil)
		r.AddCookie(w.Result().Cookies()[0])
		time.Sleep(time.Hour + time.Second)
		if _, err := a.Identify(r); !errors.Is(err, ErrNoLogin) {
			t.Errorf("unused for more than the limit: %v, want ErrNoLogin", err)
		}
	})
}

// TestIntent goes through a real server: what proves intent and what does not.
func TestIntent(t *testing.T) {
	a := newAccounts(t)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		id, err := a.Login(w, r, r.PostFormValue("user"), r.PostFormValue("password"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		io.WriteString(w, id.Token)
	})
	mux.HandleFunc("/change", func(w http.ResponseWriter, r *http.Request) {
		id, err := a.Identify(r)
		if err == nil {
			err = a.CheckIntent(r, id)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		io.WriteString(w, "changed by "+id.User.Name)
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()

	jar, _ := cookiejar.New(nil)
	browser := &http.Client{Jar: jar}
	resp, err := browser.PostForm(srv.URL+"/login", url.Values{"user": {"admin"}, "password": {"1"}})
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	token := string(b)
	c := resp.Cookies()[0]
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" {
		t.Errorf("cookie %+v: want HttpOnly, SameSite=Strict, Path=/", c)
	}

	for _, c := range []struct {
		name   string
		client *http.Client
		method string
		form   url.Values
		header map[string]string
		basic  string
		want   int
	}{
		{"session with token", browser, "POST", url.Values{TokenField: {token}}, nil, "", 200},
		{"session with token in header", browser, "POST", nil, map[string]string{"X-Csrf-Token": token}, "", 200},
		{"session without token", browser, "POST", nil, nil, "", 403},
		{"session with a wrong token", browser, "POST", url.Values{TokenField: {"x" + token}}, nil, "", 403},
		{"session with header only", browser, "POST", nil, map[string]string{RequestHeader: "1"}, "", 403},
		{"session with token from another site", browser, "POST", url.Values{TokenField: {token}}, map[string]string{"Sec-Fetch-Site": "cross-site"}, "", 403},
		{"session with token, other origin", browser, "POST", url.Values{TokenField: {token}}, map[string]string{"Origin": "http://evil.example"}, "", 403},
		{"token in the address of a GET", browser, "GET", nil, nil, "", 403},
		{"basic with header", srv.Client(), "POST", nil, map[string]string{RequestHeader: "1"}, "1", 200},
		{"basic without header", srv.Client(), "POST", nil, nil, "1", 403},
		{"basic, wrong password", srv.Client(), "POST", nil, map[string]string{RequestHeader: "1"}, "2", 403},
		{"nobody", srv.Client(), "POST", nil, map[string]string{RequestHeader: "1"}, "", 403},
	} {
		req, err := http.NewRequest(c.method, srv.URL+"/change?"+TokenField+"="+token, strings.NewReader(c.form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		if c.form != nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		for k, v := range c.header {
			req.Header.Set(k, v)
		}
		if c.basic != "" {
			req.SetBasicAuth("admin", c.basic)
		}
		resp, err := c.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Errorf("%s: got %d, want %d", c.name, resp.StatusCode, c.want)
		}
	}
}

func TestGuard(t *testing.T) {
	var f Filter
	h := f.Guard(http.NotFoundHandler(), "no access from %IP%", nil)
	r := httptest.NewRequest("GET", "/", nil) // from 192.0.2.1
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != 403 || !strings.Contains(w.Body.String(), "no access from 192.0.2.1") {
		t.Errorf("got %d %q", w.Code, w.Body)
	}
	f.Set([]string{"192.0.2.0/24"}, nil)
	w = httptest.NewRecorder()
	if h.ServeHTTP(w, r); w.Code != 404 {
		t.Errorf("allowed client: got %d", w.Code)
	}
}
