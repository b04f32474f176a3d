package account

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
)

// A Filter says which addresses may come in (config.md 8.3): those that match an entry of the
// include list and none of the exclude list, and loopback always. The zero Filter lets only
// loopback in. The platform's access subnet is an entry of the include list, put there when
// the configuration is merged (config.md 3.1).
type Filter struct {
	lists atomic.Pointer[lists]
}

type lists struct{ include, exclude []netip.Prefix }

// Set replaces the lists. Entries have the forms
//
//	192.0.2.7   192.0.2.*   192.0.*.*   192.0.2.0/24   192.0.2.0/255.255.255.0
//	2001:db8::7   2001:db8::/32   # a comment
//
// Include entries that cannot be read are left out and returned as warnings. An exclude entry
// that cannot be read is an error, and the lists stay as they were: to leave it out would let
// somebody in.
func (f *Filter) Set(include, exclude []string) (warnings []error, err error) {
	var l lists
	for _, e := range include {
		p, ok, err := parseEntry(e)
		if err != nil {
			warnings = append(warnings, fmt.Errorf("include list: %w", err))
		} else if ok {
			l.include = append(l.include, p)
		}
	}
	var errs []error
	for _, e := range exclude {
		p, ok, err := parseEntry(e)
		if err != nil {
			errs = append(errs, fmt.Errorf("exclude list: %w; the lists before it stay in force", err))
		} else if ok {
			l.exclude = append(l.exclude, p)
		}
	}
	if len(errs) > 0 {
		return warnings, errors.Join(errs...)
	}
	f.lists.Store(&l)
	return warnings, nil
}

// Allows tells whether an address may come in.
func (f *Filter) Allows(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	if addr.IsLoopback() {
		return true
	}
	l := f.lists.Load()
	if l == nil || !addr.IsValid() {
		return false
	}
	in := false
	for _, p := range l.include {
		in = in || p.Contains(addr)
	}
	for _, p := range l.exclude {
		in = in && !p.Contains(addr)
	}
	return in
}

// Guard lets only allowed clients reach next. Others get 403 with the text of forbidden, in
// which %IP% stands for their address. log may be nil: refusals are not logged.
func (f *Filter) Guard(next http.Handler, forbidden string, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		addr := ClientAddr(r)
		if f.Allows(addr) {
			next.ServeHTTP(w, r)
			return
		}
		if log != nil {
			log.Info("access refused", "client", addr)
		}
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		http.Error(w, strings.ReplaceAll(forbidden, "%IP%", addr.String()), http.StatusForbidden)
	})
}

// ClientAddr is the address of a request's client, invalid if it has none.
func ClientAddr(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// parseEntry reads one entry; ok is false for a comment or an empty one.
func parseEntry(text string) (p netip.Prefix, ok bool, err error) {
	text = strings.TrimSpace(text)
	if text == "" || text[0] == '#' {
		return p, false, nil
	}
	bad := fmt.Errorf("%q is not an address, a subnet or an address with trailing stars", text)
	if strings.HasSuffix(text, ".*") {
		if p, ok = parseStars(text); !ok {
			return p, false, bad
		}
		return p, true, nil
	}
	host, mask, masked := strings.Cut(text, "/")
	addr, err := netip.ParseAddr(host)
	if err != nil || addr.Zone() != "" {
		return p, false, bad
	}
	bits := addr.BitLen()
	if masked {
		if bits, ok = maskBits(addr, mask); !ok {
			return p, false, bad
		}
	}
	if addr.Is4In6() && bits >= 96 {
		addr, bits = addr.Unmap(), bits-96
	}
	if p, err = addr.Prefix(bits); err != nil {
		return p, false, bad
	}
	return p, true, nil
}

// parseStars reads "a.b.*.*": one to three numbers, then only stars.
func parseStars(text string) (netip.Prefix, bool) {
	parts := strings.Split(text, ".")
	if len(parts) != 4 {
		return netip.Prefix{}, false
	}
	n := 0
	for i, part := range parts {
		switch {
		case part == "*":
			parts[i] = "0"
		case n == i:
			n++
		default:
			return netip.Prefix{}, false
		}
	}
	addr, err := netip.ParseAddr(strings.Join(parts, "."))
	if err != nil || n == 0 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(addr, 8*n), true
}

// maskBits reads "24" or, for IPv4, "255.255.255.0".
func maskBits(addr netip.Addr, mask string) (int, bool) {
	if n, err := strconv.Atoi(mask); err == nil {
		return n, n >= 0 && n <= addr.BitLen() && mask[0] != '+'
	}
	m, err := netip.ParseAddr(mask)
	if err != nil || !m.Is4() || !addr.Is4() {
		return 0, false
	}
	b := m.As4()
	bits := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	n := 0
	for ; bits&(1<<31) != 0; bits <<= 1 {
		n++
	}
	return n, bits == 0
}
