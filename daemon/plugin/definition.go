package plugin

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"armarium/daemon/lockss"
)

// CompatibleVersion is the classic daemon version against which required_daemon_version is
// judged unless the operator says another: the last line of 1.x (config.md 5.4).
const CompatibleVersion = "1.74.9"

// maxChain is the greatest number of files in an inheritance chain.
const maxChain = 20

// A Definition is a plugin: its file merged with those of its ancestors.
type Definition struct {
	id       string
	chain    []string // ids of the files, own first
	m        *mapping
	params   []Param
	required string
	rates    *Rates
	results  resultList
	missing  []missing
	warnings []string
	tmpl     templates
}

// templates are those of a definition, taken apart.
type templates struct {
	name                                       template
	start, permission, stems                   []template
	rules                                      []ruleTemplate
	noRules                                    bool // no au_crawlrules at all
	polls, permittedHost, repairMissing, login []template
	weights, mimes                             []pairTemplate
	substance, nonSubstance                    map[string][]template
	userMessage                                template
	hasUserMessage                             bool
	includeStart                               bool // start pages belong to the AU whatever the rules say
}

type ruleTemplate struct {
	action int
	t      template
}

type pairTemplate struct {
	t     template
	value string
}

// A DefinitionError is a definition that cannot be used; Key is "" for the file as a whole.
type DefinitionError struct {
	ID, Key string
	Err     error
}

func (e *DefinitionError) Error() string {
	if e.Key == "" {
		return fmt.Sprintf("plugin %s: %v", e.ID, e.Err)
	}
	return fmt.Sprintf("plugin %s: key %s: %v", e.ID, e.Key, e.Err)
}

func (e *DefinitionError) Unwrap() error { return e.Err }

// LoadOptions are the parameters that act on the loading of plugins; the zero value is the
// default of each.
type LoadOptions struct {
	DaemonVersion         string `prop:"org.lockss.daemon.compatibleVersion" default:"1.74.9"`            // claimed 1.x version
	TestingMode           string `prop:"org.lockss.daemon.testingMode"`                                   // chooses overrides
	ParentVersionMismatch string `prop:"org.lockss.plugin.parentVersionMismatchAction" default:"Warning"` // Ignore, Warning, Error
	CrawlRulesIgnoreCase  string `prop:"org.lockss.plugin.crawlRulesIgnoreCase" default:"true"`           // "false": case counts
	IncludeStartURLs      string `prop:"org.lockss.plugin.crawlRulesIncludeStartUrl" default:"true"`      // "false": rules alone decide
}

// ParseDefinition reads the definition of the plugin id from its file, with the default
// options. parent gives the files of ancestors; an error of it that is fs.ErrNotExist, or a
// nil function, means that there is none of this id.
//
// The id is that of the file's place (plugins.md 1.1), whatever plugin_identifier says.
func ParseDefinition(id string, xml []byte, parent func(id string) ([]byte, error)) (*Definition, error) {
	return LoadOptions{}.Parse(id, xml, parent)
}

// Parse is ParseDefinition with options.
func (o LoadOptions) Parse(id string, xml []byte, parent func(id string) ([]byte, error)) (*Definition, error) {
	d := &Definition{id: id, m: &mapping{}}
	fail := func(key string, err error) (*Definition, error) {
		var de *DefinitionError
		if errors.As(err, &de) {
			return nil, err
		}
		return nil, &DefinitionError{ID: id, Key: key, Err: err}
	}
	if !validID.MatchString(id) {
		return fail("", fmt.Errorf("%q is not a plugin id; want a dotted name such as org.example.ExamplePlugin", id))
	}
	if err := o.inherit(d, xml, parent); err != nil {
		return fail("", err)
	}
	for _, k := range slices.Clone(d.m.keys) {
		if _, ok := d.m.values[k].(inherit); ok {
			d.m.remove(k)
		}
	}
	for _, r := range [][2]string{{"au_manifest", "au_permission_url"}, {"au_crawl_depth", "au_refetch_depth"}} {
		if v, ok := d.m.get(r[0]); ok {
			d.m.set(r[1], v)
			d.m.remove(r[0])
		}
	}
	if err := d.readParams(); err != nil {
		return fail("plugin_config_props", err)
	}
	if err := o.checkVersion(d); err != nil {
		return fail("required_daemon_version", err)
	}
	if err := d.readTemplates(); err != nil {
		return fail("", err)
	}
	if err := d.readRest(); err != nil {
		return fail("", err)
	}
	d.findClasses()
	if o.CrawlRulesIgnoreCase == "false" {
		if _, ok := d.m.get("au_crawlrules_ignore_case"); !ok {
			d.m.set("au_crawlrules_ignore_case", false)
		}
	}
	d.tmpl.includeStart = o.IncludeStartURLs != "false"
	if want, _, _ := d.text("plugin_identifier"); want != "" && want != id {
		d.warn("plugin_identifier is %s, but the file is %s, which counts", want, id)
	}
	return d, nil
}

var validID = regexp.MustCompile(`^[\w$-]+(\.[\w$-]+)*$`)

func (d *Definition) warn(format string, args ...any) {
	d.warnings = append(d.warnings, fmt.Sprintf(format, args...))
}

// inherit merges the file and its ancestors (plugins.md 2).
func (o LoadOptions) inherit(d *Definition, file []byte, parent func(string) ([]byte, error)) error {
	id := d.id
	for {
		if slices.Contains(d.chain, id) {
			return fmt.Errorf("plugin_parent: %s is its own ancestor", id)
		}
		if len(d.chain) == maxChain {
			return fmt.Errorf("plugin_parent: more than %d generations", maxChain)
		}
		own, declared, err := parseMap(file)
		if err != nil {
			return fmt.Errorf("file of %s: %w", id, err)
		}
		if declared {
			d.warn("file of %s begins with an XML declaration: classic nodes cannot load it; remove the first line", id)
		}
		if slices.ContainsFunc(file, func(b byte) bool { return b >= 0x80 }) {
			d.warn("file of %s has bytes outside ASCII: all nodes read them as ISO-8859-1", id)
		}
		if o.TestingMode != "" {
			if v, ok := own.get(o.TestingMode + "_override"); ok {
				if ov, ok := v.(*mapping); ok {
					own = own.clone()
					for _, k := range ov.keys {
						own.set(k, ov.values[k])
					}
				}
			}
		}
		d.chain = append(d.chain, id)
		for _, k := range own.keys {
			if _, ok := d.m.get(k); !ok {
				d.m.set(k, own.values[k])
			}
		}
		v, ok := own.get("plugin_parent")
		if !ok {
			return nil
		}
		next, ok := v.(string)
		if !ok {
			return fmt.Errorf("file of %s: plugin_parent is not text", id)
		}
		if parent == nil {
			return fmt.Errorf("parent %s of %s is missing: pack it into the same archive", next, id)
		}
		if slices.Contains(d.chain, next) {
			return fmt.Errorf("plugin_parent: %s is its own ancestor", next)
		}
		if file, err = parent(next); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("parent %s of %s is missing: pack it into the same archive", next, id)
			}
			return fmt.Errorf("parent %s of %s: %w", next, id, err)
		}
		if want, ok := own.get("plugin_parent_version"); ok {
			if err := o.checkParent(d, id, next, fmt.Sprint(want), file); err != nil {
				return err
			}
		}
		id = next
	}
}

func (o LoadOptions) checkParent(d *Definition, id, parent, want string, file []byte) error {
	if strings.EqualFold(o.ParentVersionMismatch, "Ignore") {
		return nil
	}
	m, _, err := parseMap(file)
	if err != nil {
		return fmt.Errorf("file of %s: %w", parent, err)
	}
	have := "1"
	if v, ok := m.get("plugin_version"); ok {
		have = fmt.Sprint(v)
	}
	if have == want {
		return nil
	}
	if strings.EqualFold(o.ParentVersionMismatch, "Error") {
		return fmt.Errorf("%s wants version %s of its parent %s, which is %s", id, want, parent, have)
	}
	d.warn("%s wants version %s of its parent %s, which is %s", id, want, parent, have)
	return nil
}

// readParams reads plugin_config_props.
func (d *Definition) readParams() error {
	v, ok := d.m.get("plugin_config_props")
	if !ok {
		return errors.New("missing: a plugin must declare its parameters")
	}
	l, ok := v.(list)
	if !ok {
		return errors.New("want a list of parameter descriptors")
	}
	for i, e := range l {
		o, ok := e.(*object)
		if !ok || o.class != "org.lockss.daemon.ConfigParamDescr" {
			return fmt.Errorf("item %d is no org.lockss.daemon.ConfigParamDescr", i+1)
		}
		p := Param{
			Key: o.el.field("key"), Display: o.el.field("displayName"), Description: o.el.field("description"),
			Definitional: isTrue(o.el.field("definitional")), DefaultOnly: isTrue(o.el.field("defaultOnly")),
		}
		if p.Key == "" {
			return fmt.Errorf("item %d has no <key>", i+1)
		}
		p.Type, _ = strconv.Atoi(strings.TrimSpace(o.el.field("type")))
		if p.Type < TypeString || p.Type > TypeTimeInterval {
			return fmt.Errorf("parameter %s: <type> must be 1 to 12", p.Key)
		}
		p.Size, _ = strconv.Atoi(strings.TrimSpace(o.el.field("size")))
		d.params = append(d.params, p)
	}
	return nil
}

func isTrue(s string) bool { return strings.EqualFold(strings.TrimSpace(s), "true") }

func (o LoadOptions) checkVersion(d *Definition) error {
	d.required = "0.0.0"
	v, ok := d.m.get("required_daemon_version")
	if !ok {
		return nil
	}
	switch v := v.(type) {
	case string:
		d.required = v
	case list: // later line: one for each product
		for _, e := range v {
			if s, ok := e.(string); ok && strings.HasPrefix(s, "1.") {
				d.required = s
			}
		}
	default:
		return errors.New("want text such as 1.60.0")
	}
	need, err := daemonVersion(d.required)
	if err != nil {
		return err
	}
	claim := o.DaemonVersion
	if claim == "" {
		claim = CompatibleVersion
	}
	have, err := daemonVersion(claim)
	if err != nil {
		return err
	}
	if need > have {
		return fmt.Errorf("needs daemon version %s; this node is compatible with %s", d.required, claim)
	}
	return nil
}

func daemonVersion(s string) (int, error) {
	parts := strings.Split(s, ".")
	n := 0
	for _, p := range parts {
		p, _, _ = strings.Cut(p, "-")
		k, err := strconv.ParseUint(p, 10, 16)
		if err != nil || len(p) > 3 || len(parts) != 3 {
			return 0, fmt.Errorf("version %q: want three numbers such as 1.60.0", s)
		}
		n = n*1000 + int(k)
	}
	return n, nil
}

// text is the value of a key as text; ok tells whether it is there.
func (d *Definition) text(key string) (s string, ok bool, err error) {
	v, ok := d.m.get(key)
	if !ok || v == nil {
		return "", false, nil
	}
	switch v := v.(type) {
	case string:
		return v, true, nil
	case int64:
		return strconv.FormatInt(v, 10), true, nil
	}
	return "", true, &DefinitionError{d.id, key, errors.New("want text")}
}

// texts is the value of a key that is text or a list of texts.
func (d *Definition) texts(key string) (l []string, ok bool, err error) {
	v, ok := d.m.get(key)
	if !ok || v == nil {
		return nil, false, nil
	}
	l, err = asTexts(v)
	if err != nil {
		return nil, true, &DefinitionError{d.id, key, err}
	}
	return l, true, nil
}

func asTexts(v any) ([]string, error) {
	switch v := v.(type) {
	case string:
		return []string{v}, nil
	case list:
		out := []string{}
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, errors.New("want a list of texts")
			}
			out = append(out, s)
		}
		return out, nil
	}
	return nil, errors.New("want text or a list of texts")
}

func (d *Definition) number(key string, dflt int64) (int64, error) {
	v, ok := d.m.get(key)
	if !ok || v == nil {
		return dflt, nil
	}
	switch v := v.(type) {
	case int64:
		return v, nil
	case string:
		if n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64); err == nil {
			return n, nil
		}
	}
	return 0, &DefinitionError{d.id, key, errors.New("want an integer")}
}

func (d *Definition) boolean(key string, dflt bool) (bool, error) {
	v, ok := d.m.get(key)
	if !ok || v == nil {
		return dflt, nil
	}
	switch v := v.(type) {
	case bool:
		return v, nil
	case string:
		return isTrue(v), nil
	}
	return false, &DefinitionError{d.id, key, errors.New("want true or false")}
}

// readTemplates takes the templates apart and checks their arguments (plugins.md 3).
func (d *Definition) readTemplates() error {
	types := map[string]int{}
	for _, p := range d.AllParams() {
		types[p.Key] = p.Type
	}
	_, functor := d.m.get("au_param_functor")
	check := func(key string, t template, inURL bool) error {
		for _, a := range t.args {
			typ, ok := types[a.name]
			switch {
			case a.name == "":
				return &DefinitionError{d.id, key, fmt.Errorf("%s: %q is neither a parameter nor function(parameter)", t.source, a.text)}
			case !ok:
				return &DefinitionError{d.id, key, fmt.Errorf("%s: parameter %s is not declared", t.source, a.name)}
			case a.fn != "" && !knownFunction(a.fn) && !functor:
				return &DefinitionError{d.id, key, fmt.Errorf("%s: unknown function %s", t.source, a.fn)}
			case inURL && a.fn == "" && typ == TypeRange:
				return &DefinitionError{d.id, key, fmt.Errorf("%s: the range %s cannot stand in a URL", t.source, a.name)}
			}
		}
		return nil
	}
	read := func(key string, inURL bool) ([]template, bool, error) {
		texts, ok, err := d.texts(key)
		if err != nil || !ok {
			return nil, ok, err
		}
		out := []template{}
		for _, s := range texts {
			t := parseTemplate(s)
			if err := check(key, t, inURL); err != nil {
				return nil, ok, err
			}
			if !inURL {
				if err := d.checkLinear(key, t); err != nil {
					return nil, ok, err
				}
			}
			out = append(out, t)
		}
		return out, ok, nil
	}
	t := &d.tmpl
	var err error
	one := func(key string, into *template) bool {
		s, ok, e := d.text(key)
		if e == nil && ok {
			*into = parseTemplate(s)
			e = check(key, *into, false)
		}
		if err == nil {
			err = e
		}
		return ok
	}
	many := func(key string, inURL bool, into *[]template) bool {
		l, ok, e := read(key, inURL)
		*into = l
		if err == nil {
			err = e
		}
		return ok
	}
	one("au_name", &t.name)
	t.hasUserMessage = one("plugin_au_config_user_msg", &t.userMessage)
	many("au_start_url", true, &t.start)
	if !many("au_permission_url", true, &t.permission) {
		t.permission = t.start
	}
	many("au_additional_url_stems", true, &t.stems)
	many("au_exclude_urls_from_polls_pattern", false, &t.polls)
	many("au_permitted_host_pattern", false, &t.permittedHost)
	many("au_repair_from_peer_if_missing_url_pattern", false, &t.repairMissing)
	many("au_redirect_to_login_url_pattern", false, &t.login)
	if err != nil {
		return err
	}
	if err = d.substance("au_substance_url_pattern", &t.substance, check); err != nil {
		return err
	}
	if err = d.substance("au_non_substance_url_pattern", &t.nonSubstance, check); err != nil {
		return err
	}
	for _, p := range []struct {
		key  string
		into *[]pairTemplate
	}{{"au_url_poll_result_weight", &t.weights}, {"au_url_mime_type", &t.mimes}, {"au_url_mime_type_map", &t.mimes}} {
		l, _, err := d.texts(p.key)
		if err != nil {
			return err
		}
		for _, s := range l {
			i := strings.LastIndexByte(s, ',')
			if i < 0 {
				return &DefinitionError{d.id, p.key, fmt.Errorf("%q: want pattern,value", s)}
			}
			pt := pairTemplate{parseTemplate(s[:i]), strings.TrimSpace(s[i+1:])}
			if err := check(p.key, pt.t, false); err != nil {
				return err
			}
			if err := d.checkLinear(p.key, pt.t); err != nil {
				return err
			}
			*p.into = append(*p.into, pt)
		}
	}
	return d.readRules(check)
}

func (d *Definition) readRules(check func(string, template, bool) error) error {
	v, ok := d.m.get("au_crawlrules")
	if !ok {
		d.tmpl.noRules = true
		return nil
	}
	if _, ok := v.(string); ok {
		d.tmpl.noRules = true // a Java class decides; findClasses says so
		return nil
	}
	l, err := asTexts(v)
	if err != nil {
		return &DefinitionError{d.id, "au_crawlrules", err}
	}
	for _, s := range l {
		num, rest, ok := strings.Cut(s, ",")
		action, err := strconv.Atoi(strings.TrimSpace(num))
		if !ok || err != nil {
			return &DefinitionError{d.id, "au_crawlrules", fmt.Errorf("%q: want action,pattern with an action of 1 to 6", s)}
		}
		if action < 1 || action > 6 {
			d.warn("crawl rule %q: action %d does nothing", s, action)
		}
		r := ruleTemplate{action, parseTemplate(rest)}
		if err := check("au_crawlrules", r.t, false); err != nil {
			return err
		}
		if err := d.checkLinear("au_crawlrules", r.t); err != nil {
			return err
		}
		d.tmpl.rules = append(d.tmpl.rules, r)
	}
	return nil
}

func (d *Definition) substance(key string, into *map[string][]template, check func(string, template, bool) error) error {
	v, ok := d.m.get(key)
	if !ok || v == nil {
		return nil
	}
	m, isMap := v.(*mapping)
	if !isMap {
		m = &mapping{}
		m.set("*", v)
	}
	*into = map[string][]template{}
	for _, k := range m.keys {
		l, err := asTexts(m.values[k])
		if err != nil {
			return &DefinitionError{d.id, key, err}
		}
		ts := []template{}
		for _, s := range l {
			t := parseTemplate(s)
			if err := check(key, t, false); err != nil {
				return err
			}
			if err := d.checkLinear(key, t); err != nil {
				return err
			}
			ts = append(ts, t)
		}
		for _, depth := range strings.Split(k, ";") {
			(*into)[strings.TrimSpace(depth)] = ts
		}
	}
	return nil
}

// checkLinear refuses a pattern that would need backtracking, whatever the parameters are.
// Other faults of a pattern show when an AU is made, as in the classic node.
func (d *Definition) checkLinear(key string, t template) error {
	vals := make([]any, len(t.args))
	for i := range vals {
		vals[i] = "0"
	}
	s := t.format
	if len(t.args) > 0 {
		var err error
		if s, err = sprintf(t.format, vals); err != nil {
			return nil
		}
	}
	if _, err := compilePattern(s, false); errors.Is(err, ErrNotLinear) {
		return &DefinitionError{d.id, key, &PatternError{t.source, errors.Unwrap(err)}}
	}
	return nil
}

// readRest checks the keys that are not templates.
func (d *Definition) readRest() error {
	for _, k := range []string{"au_refetch_depth", "au_def_pause_time", "au_def_new_content_crawl"} {
		if n, err := d.number(k, 0); err != nil {
			return err
		} else if n < 0 {
			return &DefinitionError{d.id, k, errors.New("must not be negative")}
		}
	}
	for _, k := range []string{"au_crawlrules_ignore_case", "plugin_store_probe_permission", "plugin_send_referrer", "plugin_bulk_content", "au_dont_poll"} {
		if _, err := d.boolean(k, false); err != nil {
			return err
		}
	}
	for _, k := range []string{"plugin_name", "plugin_version", "plugin_notes", "plugin_publishing_platform", "plugin_per_host_permission_path",
		"plugin_fetch_rate_limiter_source", "au_crawl_cookie_policy"} {
		if _, _, err := d.text(k); err != nil {
			return err
		}
	}
	for _, k := range []string{"au_http_cookie", "au_http_request_header", "plugin_cache_result_list"} {
		if _, _, err := d.texts(k); err != nil {
			return err
		}
	}
	if items, ok, _ := d.texts("plugin_cache_result_list"); ok {
		rl, unknown, err := parseResults(items)
		if err != nil {
			return &DefinitionError{d.id, "plugin_cache_result_list", err}
		}
		d.results = rl
		for _, u := range unknown {
			_, class, _ := strings.Cut(u, "=")
			d.lack("plugin_cache_result_list", strings.TrimSpace(class), "results of requests would be judged otherwise", true, false)
		}
	}
	if v, ok := d.m.get("au_rate_limiter_info"); ok {
		o, isObject := v.(*object)
		if !isObject || o.class != "org.lockss.plugin.RateLimiterInfo" {
			return &DefinitionError{d.id, "au_rate_limiter_info", errors.New("want an org.lockss.plugin.RateLimiterInfo")}
		}
		r, err := parseRateInfo(o)
		if err != nil {
			return &DefinitionError{d.id, "au_rate_limiter_info", err}
		}
		d.rates = &r
	}
	for _, k := range []string{"au_url_rate_limiter_map", "au_mime_rate_limiter_map"} {
		if v, ok := d.m.get(k); ok {
			pairs, err := rateMap(v)
			if err == nil {
				var r Rates
				if k == "au_url_rate_limiter_map" {
					err = r.setMaps(pairs, nil)
				} else {
					err = r.setMaps(nil, pairs)
				}
			}
			if err != nil {
				return &DefinitionError{d.id, k, err}
			}
		}
	}
	if v, ok := d.m.get("plugin_feature_version_map"); ok {
		m, isMap := v.(*mapping)
		if !isMap {
			return &DefinitionError{d.id, "plugin_feature_version_map", errors.New("want a map")}
		}
		for _, k := range m.keys {
			if k != "Poll" && k != "Substance" && k != "Metadata" {
				d.warn("plugin_feature_version_map: unknown feature %s", k)
			}
		}
	}
	if _, err := d.VersionNumber(); err != nil {
		d.warn("%v", err)
	}
	return nil
}

// ID is the plugin id, "org.example.plugin.ExamplePlugin".
func (d *Definition) ID() string { return d.id }

// Name is for people: plugin_name, or the last part of the id.
func (d *Definition) Name() string {
	if s, ok, _ := d.text("plugin_name"); ok {
		return s
	}
	return d.id[strings.LastIndexByte(d.id, '.')+1:]
}

// Notes are the plugin's notes for operators, or "".
func (d *Definition) Notes() string { s, _, _ := d.text("plugin_notes"); return s }

// Publishing is the publishing platform, or "".
func (d *Definition) Publishing() string { s, _, _ := d.text("plugin_publishing_platform"); return s }

// Version is the text of plugin_version, "1" if there is none.
func (d *Definition) Version() string {
	if s, ok, _ := d.text("plugin_version"); ok {
		return s
	}
	return "1"
}

// VersionNumber is the version as a number: base 36, an ending after a hyphen ignored. A
// greater one is newer.
func (d *Definition) VersionNumber() (int64, error) {
	s, _, _ := strings.Cut(d.Version(), "-")
	n, err := strconv.ParseInt(s, 36, 64)
	if err != nil || len(s) > 11 || n < 0 {
		return 0, &DefinitionError{d.id, "plugin_version", fmt.Errorf("%q: want at most 11 digits or letters", d.Version())}
	}
	return n, nil
}

// Feature is the version of a feature (Poll, Substance, Metadata): "Poll_4", or "".
func (d *Definition) Feature(name string) string {
	if v, ok := d.m.get("plugin_feature_version_map"); ok {
		if m, ok := v.(*mapping); ok {
			if s, ok := m.get(name); ok && s != nil {
				return name + "_" + fmt.Sprint(s)
			}
		}
	}
	return ""
}

// PollVersion is the text that must be equal between poller and voter (plugins.md 6.1).
func (d *Definition) PollVersion() string {
	if f := d.Feature("Poll"); f != "" {
		return f
	}
	return d.Version()
}

// RequiredDaemonVersion is the least version of the classic daemon, "0.0.0" for any.
func (d *Definition) RequiredDaemonVersion() string { return d.required }

// Chain lists the ids of the files merged, the plugin's own first.
func (d *Definition) Chain() []string { return slices.Clone(d.chain) }

// Params are the declared parameters in order.
func (d *Definition) Params() []Param { return slices.Clone(d.params) }

// AllParams are the declared, automatic and derived parameters.
func (d *Definition) AllParams() []Param {
	out := slices.Clone(d.params)
	if len(out) > 0 {
		for _, p := range automatic() {
			if !slices.ContainsFunc(d.params, func(q Param) bool { return q.Key == p.Key }) {
				out = append(out, p)
			}
		}
	}
	for _, p := range d.params {
		out = append(out, derivedParams(p)...)
	}
	return out
}

// Keys lists the keys of the merged map.
func (d *Definition) Keys() []string { return slices.Clone(d.m.keys) }

// Warnings tell what is odd but does not hinder.
func (d *Definition) Warnings() []string { return slices.Clone(d.warnings) }

// Configuration reduces the parameters of a title list entry to the configuration of an AU
// (titledb.md 1.3): those the plugin or the node knows and that are not default-only.
// dropped are the unknown ones. The error names a definitional parameter that is lacking.
func (d *Definition) Configuration(params map[string]string) (conf map[string]string, dropped []string, err error) {
	known := map[string]Param{"pause_time": {Key: "pause_time"}}
	for _, p := range d.AllParams() {
		if !p.Derived {
			known[p.Key] = p
		}
	}
	conf = map[string]string{}
	for k, v := range params {
		p, ok := known[k]
		switch {
		case !ok:
			dropped = append(dropped, k)
		case !p.DefaultOnly:
			conf[k] = v
		}
	}
	slices.Sort(dropped)
	for _, p := range d.params {
		if _, ok := conf[p.Key]; p.Definitional && !ok {
			return conf, dropped, fmt.Errorf("plugin %s: parameter %s is lacking", d.id, p.Key)
		}
	}
	return conf, dropped, nil
}

// AUID is the identity that these parameters give: only definitional ones count.
func (d *Definition) AUID(params map[string]string) lockss.AUID {
	def := map[string]string{}
	for _, p := range d.params {
		if v, ok := params[p.Key]; ok && p.Definitional {
			def[p.Key] = v
		}
	}
	return lockss.NewAUID(d.id, def)
}
