package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"armarium/qemu-tests/world"
)

const (
	nodes    = 5
	quorum   = 3
	pluginID = "org.armarium.demo.DocumentationPlugin"
)

var plan = world.Plan{Group: "demo", User: "admin", Password: "armarium-demo",
	LCAP: 9721, UI: 8081, Audit: 8090, PublisherPort: 18000, OfficePort: 18001, RegistryPort: 18002}

// network is everything outside the box.
type network struct {
	*printer
	dir, bin  string
	section   string
	publisher *world.Publisher
	office    *world.Office
	others    []*world.Process
}

// baseURL of the publication.
func baseURL() string { return fmt.Sprintf("http://%s:%d/docs/", world.Address, plan.PublisherPort) }

// tool runs the armarium command line tool as a user would, and shows the command.
func (n *network) tool(ctx context.Context, env []string, args ...string) (string, error) {
	n.say("you", "armarium %s", strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, filepath.Join(n.bin, "armarium"), args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("armarium %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// startOutside makes the network's material (keys, signed plugin, title list, property
// file) and starts publisher, property server and plugin registry.
func (n *network) startOutside(ctx context.Context, pub world.Publication) (err error) {
	n.section = pub.Section
	files, bytes, err := pub.Size()
	if err != nil {
		return err
	}
	n.head("the world outside: publisher, property server, plugin registry")
	if n.publisher, err = world.StartPublisher(ctx, n.dir, plan.PublisherPort, pub); err != nil {
		return err
	}
	n.say("publisher", "nginx serves %s: %d files, %.1f MB, with a permission page in front", baseURL(), files, float64(bytes)/1e6)

	keys := filepath.Join(n.dir, "keys")
	if err := os.MkdirAll(keys, 0o700); err != nil {
		return err
	}
	in := func(name string) string { return filepath.Join(keys, name) }
	env := []string{"ARMARIUM_KEYSTORE_PASSWORD=demo-signer"}
	for _, args := range [][]string{
		{"keys", "new", "demo-lockss", "--name", "Demonstration Network", "-o", in("demo.keystore"), "--cert", in("demo.cer"), "--force"},
		{"keys", "trust", in("demo.cer"), "-o", in("network.keystore"), "--force"},
		{"plugin", "pack", pluginID, "--src", filepath.Join(n.dir, "plugin"), "-o", in("DocumentationPlugin.jar"), "--force"},
		{"plugin", "sign", in("DocumentationPlugin.jar"), "--keystore", in("demo.keystore")},
	} {
		if _, err := n.tool(ctx, env, args...); err != nil {
			return err
		}
	}
	jar, err := os.ReadFile(in("DocumentationPlugin.jar"))
	if err != nil {
		return err
	}
	trust, err := os.ReadFile(in("network.keystore"))
	if err != nil {
		return err
	}
	if n.office, err = world.StartOffice(plan.OfficePort, plan.RegistryPort); err != nil {
		return err
	}
	now := time.Now()
	n.office.Put("/lockss.xml", world.PropertyFile(n.parameters()), now)
	n.office.Put("/titles.xml", world.PropertyFile(n.titles()), now)
	n.office.Put("/network.keystore", trust, now)
	n.office.Put("/plugins/index.html", world.RegistryPage("Demonstration Network plugins", "DocumentationPlugin.jar"), now)
	n.office.Put("/plugins/DocumentationPlugin.jar", jar, now)
	n.say("office", "property file at %s, plugin registry at %s", plan.PropertyURL(), registryURL())
	return nil
}

func registryURL() string {
	return fmt.Sprintf("http://%s:%d/plugins/index.html", world.Address, plan.RegistryPort)
}

// parameters is what the network publishes. They are ordinary parameters of a network; the
// short times are what makes the demonstration fast.
func (n *network) parameters() map[string]string {
	var peers []string
	for i := range nodes {
		peers = append(peers, plan.Identity(i+1))
	}
	return map[string]string{
		"org.lockss.id.initialV3PeerList":            strings.Join(peers, ";"),
		"org.lockss.plugin.registries":               registryURL(),
		"org.lockss.plugin.keystore.location":        fmt.Sprintf("http://%s:%d/network.keystore", world.Address, plan.OfficePort),
		"org.lockss.titleDbs":                        "titles.xml",
		"org.lockss.proxy.audit.start":               "true",
		"org.lockss.proxy.audit.port":                fmt.Sprint(plan.Audit),
		"org.lockss.crawler.startCrawlsInitialDelay": "10s",

		"org.lockss.poll.v3.quorum":                     fmt.Sprint(quorum),
		"org.lockss.poll.v3.minPollDuration":            "1m",
		"org.lockss.poll.v3.voteDurationPadding":        "30s",
		"org.lockss.poll.v3.tallyDurationPadding":       "30s",
		"org.lockss.poll.v3.receiptPadding":             "20s",
		"org.lockss.poll.v3.extraPollTime":              "30s",
		"org.lockss.poll.v3.voteRequestDelay":           "0",
		"org.lockss.poll.v3.voteMsgPadding":             "2s",
		"org.lockss.poll.v3.timeBetweenInvitations":     "10s",
		"org.lockss.poll.v3.repairFromCachePercent":     "100%",
		"org.lockss.poll.v3.toplevelPollInterval":       "1d",
		"org.lockss.poll.v3.minTimeBetweenAnyPoll":      "1s",
		"org.lockss.poll.minPollAttemptInterval":        "1m",
		"org.lockss.poll.pollStarterInitialDelay":       "5m",
		"org.lockss.poll.enablePollStarterThrottle":     "false",
		"org.lockss.scomm.minPeerRetryInterval":         "2s",
		"org.lockss.scomm.retryDelay":                   "1s",
		"org.lockss.scomm.timeout.connect":              "10s",
		"org.lockss.metrics.default.hash.speed":         "4000",
		"org.lockss.baseau.minFetchDelay":               "10ms",
		"org.lockss.config.reloadInterval":              "5m",
		"org.lockss.repository.diskSpace.warn.freeMB":   "100",
		"org.lockss.repository.diskSpace.full.freeMB":   "10",
		"org.lockss.proxy.includeLockssAuditProperties": "true",
	}
}

// title of the archival unit in the network's title list.
func (n *network) title() string { return "Python documentation: " + n.section }

func (n *network) titles() map[string]string {
	const t = "org.lockss.title.demo."
	return map[string]string{
		t + "title": n.title(), t + "plugin": pluginID, t + "journalTitle": "Python documentation", t + "type": "book",
		t + "param.1.key": "base_url", t + "param.1.value": baseURL(),
		t + "param.2.key": "directory", t + "param.2.value": n.section,
		t + "attributes.publisher": "Python Software Foundation",
	}
}

// startOthers starts nodes 2 to 5 as processes.
func (n *network) startOthers() error {
	n.head("four more nodes, as processes of the same daemon")
	for i := 2; i <= nodes; i++ {
		p, err := plan.StartProcess(i, filepath.Join(n.bin, "armariumd"), filepath.Join(n.dir, fmt.Sprintf("node%d", i)), n.watch(fmt.Sprintf("node %d", i)))
		if err != nil {
			return err
		}
		n.others = append(n.others, p)
		n.say(p.Name, "started as %s, pages at %s", plan.Identity(i), p.UI)
	}
	return nil
}

// stop ends everything outside.
func (n *network) stop() error {
	var errs []error
	for _, p := range n.others {
		errs = append(errs, p.Stop())
	}
	if n.publisher != nil {
		n.publisher.Stop()
	}
	if n.office != nil {
		errs = append(errs, n.office.Stop())
	}
	return errors.Join(errs...)
}

// collect adds the collection at every member and waits until all have crawled it.
func (n *network) collect(ctx context.Context, members []world.Member, total int) error {
	n.head("every node adds the collection and crawls it")
	for _, m := range members {
		if err := m.Healthy(ctx); err != nil {
			return err
		}
		_, err := n.tool(ctx, []string{"ARMARIUM_PASSWORD=" + plan.Password}, "node", "au", "add", n.title(), "--node", m.UI, "--user", plan.User)
		if err != nil {
			return err
		}
	}
	began := time.Now()
	seen := map[string]string{}
	for {
		ready := 0
		for _, m := range members {
			rows, err := m.Table(ctx, "crawls")
			if err != nil {
				return err
			}
			au, err := n.au(ctx, m)
			if err != nil {
				return err
			}
			for _, r := range rows {
				if r.Text("au") != au.Text("au") {
					continue
				}
				done := int(r.Number("fetched"))
				line := fmt.Sprintf("crawl ended: %s, %d fetched, %d errors", r.Text("status"), done, int(r.Number("errors")))
				if running, _ := r["running"].(bool); running {
					line = progress("crawl", done, max(total, done), "URLs", began)
				} else if r.Text("status") == "Successful" {
					ready++
				} else {
					return fmt.Errorf("%s: crawl ended as %s: %s", m.Name, r.Text("status"), r.Text("message"))
				}
				if seen[m.Name] != line {
					seen[m.Name] = line
					n.say(m.Name, "%s", line)
				}
				break
			}
		}
		if ready == len(members) {
			return nil
		}
		if err := pause(ctx, 3*time.Second); err != nil {
			return err
		}
	}
}

// au finds the collection at a member.
func (n *network) au(ctx context.Context, m world.Member) (world.Row, error) {
	rows, err := m.Table(ctx, "aus")
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		if strings.Contains(r.Text("au"), "DocumentationPlugin") {
			var whole world.Row
			err := m.Call(ctx, http.MethodGet, "/api/v1/aus/"+escape(r.Text("au")), nil, &whole)
			return whole, err
		}
	}
	return nil, fmt.Errorf("%s does not have the collection", m.Name)
}

// poll has a member call a poll and waits for its end.
func (n *network) poll(ctx context.Context, m world.Member) (world.Row, error) {
	au, err := n.au(ctx, m)
	if err != nil {
		return nil, err
	}
	before, err := m.Table(ctx, "polls")
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, r := range before {
		known[r.Text("key")] = true
	}
	n.say(m.Name, "calls a poll")
	if err := m.Call(ctx, http.MethodPost, "/api/v1/aus/"+escape(au.Text("au"))+"/poll", map[string]string{}, nil); err != nil {
		return nil, err
	}
	last := ""
	for {
		rows, err := m.Table(ctx, "polls")
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			if known[r.Text("key")] {
				continue
			}
			line := r.Text("status")
			if v := int(r.Number("voters")); v > 0 {
				line += fmt.Sprintf(", %d voters", v)
			}
			if line != last {
				last = line
				n.say(m.Name, "poll: %s", line)
			}
			if running, _ := r["running"].(bool); !running {
				n.say(m.Name, "poll ended: %s, agreement %.2f %%. %s", r.Text("status"), 100*r.Number("agreement"), r.Text("sentence"))
				return r, nil
			}
			break
		}
		if err := pause(ctx, time.Second); err != nil {
			return nil, err
		}
	}
}

// pause waits, unless ctx ends before.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// watch shows those lines of a daemon's log that tell what a node does.
func (n *network) watch(name string) func(string) {
	return func(line string) {
		if text, ok := digest(line); ok {
			n.say(name, "%s", text)
		}
	}
}

// digest shortens a log line to its message and the attributes that tell something; ok is
// false for lines that are not worth showing.
func digest(line string) (string, bool) {
	a := attributes(line)
	msg := a["msg"]
	switch {
	case a["level"] == "WARN" || a["level"] == "ERROR":
	case strings.HasPrefix(msg, "plugin"), strings.HasPrefix(msg, "poll"), strings.HasPrefix(msg, "vote"), strings.HasPrefix(msg, "repair"),
		strings.HasPrefix(msg, "invit"), strings.HasPrefix(msg, "agreement"), msg == "node started":
	default:
		return "", false
	}
	for _, k := range []string{"level", "time", "part", "au", "poll", "msg"} {
		delete(a, k)
	}
	text := msg
	for _, k := range sortedKeys(a) {
		text += " " + k + "=" + a[k]
	}
	return text, true
}

// attributes reads a line of slog's text format.
func attributes(line string) map[string]string {
	a := map[string]string{}
	if _, short, ok := strings.Cut(line, "daemon: "); ok { // as a box's console has it
		words := strings.Fields(short)
		n := 1
		for n < len(words) && !strings.Contains(words[n], "=") {
			n++
		}
		if n > 1 && slices.Contains([]string{"WARN", "ERROR", "DEBUG"}, words[1]) {
			a["level"] = words[1]
			words, n = words[1:], n-1
		}
		a["msg"] = strings.Join(words[1:min(n, len(words))], " ")
		line = strings.Join(words[min(n, len(words)):], " ")
	}
	for line != "" {
		key, rest, ok := strings.Cut(line, "=")
		if !ok {
			break
		}
		var value string
		if strings.HasPrefix(rest, `"`) {
			end := 1
			for end < len(rest) && rest[end] != '"' {
				if rest[end] == '\\' {
					end++
				}
				end++
			}
			value = strings.ReplaceAll(rest[1:min(end, len(rest))], `\"`, `"`)
			rest = rest[min(end+1, len(rest)):]
		} else {
			value, rest, _ = strings.Cut(rest, " ")
		}
		a[strings.TrimSpace(key)] = value
		line = strings.TrimLeft(rest, " ")
	}
	return a
}

func sortedKeys(m map[string]string) []string {
	return slices.Sorted(maps.Keys(m))
}

// escape makes an AU id one segment of a path.
func escape(id string) string { return url.PathEscape(id) }
