package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func nodeCommand() *cobra.Command {
	o := &nodeOptions{}
	c := group("node", "Work with a running node", `Talks to a node over its API, as a user of the node. The password is read from --password-file, from
ARMARIUM_PASSWORD, or asked for.`)
	f := c.PersistentFlags()
	f.StringVar(&o.url, "node", "http://127.0.0.1:8081", "address of the node's pages")
	f.StringVar(&o.user, "user", "admin", "user of the node")
	f.StringVar(&o.passFile, "password-file", "", "file whose first line is the password")
	f.BoolVar(&o.json, "json", false, "print the node's answer as it is, in JSON")
	f.DurationVar(&o.timeout, "timeout", time.Minute, "time allowed for one answer")
	c.AddCommand(statusCommand(o), auCommand(o), crawlCommand(o), pollCommand(o))
	for _, t := range []struct{ use, path, short string }{
		{"peers", "peers", "List the other nodes and how much they agree"},
		{"repairs", "repairs", "List repairs of content"},
		{"titles", "titles", "List the archival units that the network offers"},
	} {
		c.AddCommand(tableCommand(o, t.use, t.path, t.short))
	}
	return c
}

type nodeOptions struct {
	url, user, passFile string
	json                bool
	timeout             time.Duration
}

// maxAnswer limits an answer of a node.
const maxAnswer = 256 << 20 // bytes

// A client talks to one node.
type client struct {
	base, user, pass string
	http             *http.Client
}

// client reads the password and checks the address.
func (o *nodeOptions) client(cmd *cobra.Command) (*client, error) {
	u, err := url.Parse(o.url)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, usagef("--node %q: want an address such as http://127.0.0.1:8081", o.url)
	}
	pass, err := password(cmd, "ARMARIUM_PASSWORD", o.passFile, fmt.Sprintf("Password of %s at %s: ", o.user, u.Host))
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		fmt.Fprintf(cmd.ErrOrStderr(), "note: the password travels unencrypted to %s; use https or a tunnel outside a trusted network\n", u.Host)
	}
	return &client{
		base: strings.TrimSuffix(o.url, "/") + "/api/v1/", user: o.user, pass: pass,
		http: &http.Client{
			Timeout: o.timeout,
			// A redirect could carry the password elsewhere.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// An apiError is a refusal of a node.
type apiError struct {
	Status     int
	Text, Hint string
}

func (e *apiError) Error() string {
	if e.Hint != "" {
		return e.Text + "; " + e.Hint
	}
	return e.Text
}

// do sends a request; body nil sends none. path is below /api/v1/.
func (c *client) do(ctx context.Context, method, path string, body any) ([]byte, error) {
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, r)
	if err != nil {
		return nil, err
	}
	req.SetBasicAuth(c.user, c.pass)
	req.Header.Set("X-Armarium-Request", "1")
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, fmt.Errorf("node %s does not answer: %w; is it running, and is --node its address?", req.URL.Host, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("answer of node %s: %w", req.URL.Host, err)
	}
	if len(b) > maxAnswer {
		return nil, fmt.Errorf("answer of node %s has more than %d bytes", req.URL.Host, maxAnswer)
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return b, nil
	}
	e := &apiError{Status: resp.StatusCode, Text: fmt.Sprintf("node %s answered %s to %s", req.URL.Host, resp.Status, req.URL.Path)}
	var told struct{ Error, Hint string }
	if json.Unmarshal(b, &told) == nil && told.Error != "" {
		e.Text, e.Hint = told.Error, told.Hint
	} else {
		switch resp.StatusCode {
		case http.StatusUnauthorized:
			e.Hint = "user name or password is wrong: check --user and the password"
		case http.StatusForbidden:
			e.Hint = "this user, or this machine's address, may not do it"
		case http.StatusNotFound:
			e.Hint = "is --node the address of an Armarium node's pages?"
		}
	}
	return nil, e
}

// show gets a path and prints the answer.
func (o *nodeOptions) show(cmd *cobra.Command, path string) error {
	c, err := o.client(cmd)
	if err != nil {
		return err
	}
	b, err := c.do(cmd.Context(), http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	return o.print(cmd, b)
}

// print prints an answer: as it is with --json, else for people.
func (o *nodeOptions) print(cmd *cobra.Command, b []byte) error {
	if o.json {
		if len(b) == 0 {
			return nil
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s\n", bytes.TrimRight(b, "\n"))
		return err
	}
	return render(cmd.OutOrStdout(), b)
}

func tableCommand(o *nodeOptions, use, path, short string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: short + ".",
		Example: "  armarium node " + use + "\n  armarium node " + use + " --json",
		Args:    args(0, 0, "no arguments"),
		RunE:    func(cmd *cobra.Command, _ []string) error { return o.show(cmd, path) },
	}
}

// findAU finds the id of the unit that a person means: an id, a name, or a part of a name
// that only one unit has.
func (c *client) findAU(ctx context.Context, what string) (id, name string, err error) {
	b, err := c.do(ctx, http.MethodGet, "aus?limit=10000", nil)
	if err != nil {
		return "", "", err
	}
	t, err := parseTable(b)
	if err != nil {
		return "", "", err
	}
	var found [][2]string
	for _, r := range t.Rows {
		i, n := r.text("auid", "id", "au"), r.text("name", "title")
		if i == what || n == what {
			return i, n, nil
		}
		if i != "" && strings.Contains(strings.ToLower(n), strings.ToLower(what)) {
			found = append(found, [2]string{i, n})
		}
	}
	switch len(found) {
	case 1:
		return found[0][0], found[0][1], nil
	case 0:
		return "", "", fmt.Errorf("the node has no unit %q; list its units with: armarium node au", what)
	}
	var names []string
	for _, f := range found[:min(len(found), 10)] {
		names = append(names, "\n  "+f[1])
	}
	return "", "", fmt.Errorf("%d units have %q in their names; be more exact:%s", len(found), what, strings.Join(names, ""))
}

func auPath(id string, more ...string) string {
	return strings.Join(append([]string{"aus", url.PathEscape(id)}, more...), "/")
}
