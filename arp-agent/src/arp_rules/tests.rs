//! Frames of cali0, whose index is 7, on their way through rules.

use super::*;

fn cali0() -> Link {
    Link { ifindex: 7, name: "cali0".into(), ..Link::default() }
}

fn padded(name: &[u8]) -> Vec<u8> {
    let mut name = name.to_vec();
    name.resize(16, 0);
    name
}

fn equals(field: Field, value: &[u8]) -> Step {
    let with = Values::Masked { value: value.to_vec(), mask: vec![0xff; value.len()] };
    Step::If(Test { field, with, inverted: false })
}

fn not(step: Step) -> Step {
    let Step::If(test) = step else { panic!("{step:?}") };
    Step::If(Test { inverted: true, ..test })
}

fn one_of(field: Field, values: &[Vec<u8>]) -> Step {
    Step::If(Test { field, with: Values::Set(values.iter().cloned().collect()), inverted: false })
}

fn from(name: &str) -> Step {
    equals(Field::InName, &padded(name.as_bytes()))
}

fn to(name: &str) -> Step {
    equals(Field::OutName, &padded(name.as_bytes()))
}

const ACCEPT: Step = Step::Verdict(ChainVerdict::Accept);
const DROP: Step = Step::Verdict(ChainVerdict::Drop);
const RETURN: Step = Step::Verdict(ChainVerdict::Return);
const CONTINUE: Step = Step::Verdict(ChainVerdict::Continue);

const fn jump(to: usize) -> Step {
    Step::Verdict(ChainVerdict::Jump(to))
}

const fn goto(to: usize) -> Step {
    Step::Verdict(ChainVerdict::Goto(to))
}

/// Chains of these rules; the first is at the hook.
fn rules<const N: usize>(hook: ChainHook, accepts: bool, chains: [Vec<Vec<Step>>; N]) -> ArpRules {
    let rule = |(at, steps)| ChainRule { number: at as u64 + 1, steps };
    let chain = |(at, rules): (usize, Vec<Vec<Step>>)| Chain {
        tool: ChainTool::Nft,
        name: format!("arp t c{at}"),
        rules: rules.into_iter().enumerate().map(rule).collect(),
    };
    ArpRules {
        bases: vec![Base { hook, chain: 0, accepts }],
        chains: chains.into_iter().enumerate().map(chain).collect(),
        unread: None,
    }
}

/// A chain for what comes in that drops what is from this interface.
pub(crate) fn dropping_from(name: &str) -> ArpRules {
    rules(ChainHook::Input, true, [vec![vec![from(name), DROP]]])
}

fn concerns(rules: &ArpRules) -> bool {
    rules.concern(&cali0()).is_some()
}

/// Whether a chain for what comes in, with the policy to accept, concerns it.
fn incoming(chain: Vec<Vec<Step>>) -> bool {
    concerns(&rules(ChainHook::Input, true, [chain]))
}

/// The same for what goes out.
fn outgoing(chain: Vec<Vec<Step>>) -> bool {
    concerns(&rules(ChainHook::Output, true, [chain]))
}

#[test]
fn nothing_concerns_nobody_and_what_was_not_read_everybody() {
    assert!(!concerns(&ArpRules::default()));
    assert!(concerns(&ArpRules::unread("test")));
    assert!(!incoming(vec![]) && !outgoing(vec![]), "without rules, and accepts");
}

#[test]
fn names() {
    assert!(incoming(vec![vec![from("cali0"), DROP]]));
    assert!(!incoming(vec![vec![from("cali1"), DROP]]));
    assert!(!incoming(vec![vec![from("cali00"), DROP]]));
    assert!(!incoming(vec![vec![from("cali"), DROP]]), "a whole name");
    assert!(!incoming(vec![vec![not(from("cali0")), DROP]]));
    assert!(incoming(vec![vec![not(from("cali1")), DROP]]));
    assert!(incoming(vec![vec![equals(Field::InName, b"cali"), DROP]]), "the beginning");
    assert!(!incoming(vec![vec![equals(Field::InName, b"cali\0"), DROP]]), "the beginning and the end");
    assert!(incoming(vec![vec![equals(Field::InName, b"cali0\0"), DROP]]));
    assert!(!incoming(vec![vec![equals(Field::InName, b"eth"), DROP]]));
    let set = |names: &[&str]| one_of(Field::InName, &names.iter().map(|n| padded(n.as_bytes())).collect::<Vec<_>>());
    assert!(incoming(vec![vec![set(&["eth0", "cali0"]), DROP]]));
    assert!(!incoming(vec![vec![set(&["eth0", "eth1"]), DROP]]));
    assert!(!incoming(vec![vec![not(set(&["eth0", "cali0"])), DROP]]));
    assert!(incoming(vec![vec![not(set(&["eth0", "eth1"])), DROP]]));
    assert!(incoming(vec![vec![not(set(&[])), DROP]]));
}

#[test]
fn masked_names_as_arptables_compares_them() {
    let masked = |name: &[u8], len: usize| {
        let mask = padded(&vec![0xff; len]);
        Step::If(Test { field: Field::InName, with: Values::Masked { value: padded(name), mask }, inverted: false })
    };
    assert!(incoming(vec![vec![masked(b"cali+", 4), DROP]]));
    assert!(!incoming(vec![vec![masked(b"eth+", 3), DROP]]));
    assert!(!incoming(vec![vec![not(masked(b"cali+", 4)), DROP]]));
    assert!(incoming(vec![vec![not(masked(b"eth+", 3)), DROP]]));
    assert!(!outgoing(vec![vec![masked(b"cali+", 4), DROP]]), "what goes out came in nowhere");
    assert!(outgoing(vec![vec![masked(b"+", 0), DROP]]), "any");
}

#[test]
fn indexes() {
    let index = |index: u32| equals(Field::InIndex, &index.to_ne_bytes());
    assert!(incoming(vec![vec![index(7), DROP]]));
    assert!(!incoming(vec![vec![index(8), DROP]]));
    assert!(!incoming(vec![vec![not(index(7)), DROP]]));
    assert!(incoming(vec![vec![not(index(8)), DROP]]));
    assert!(!outgoing(vec![vec![equals(Field::OutIndex, &8_u32.to_ne_bytes()), DROP]]));
    assert!(outgoing(vec![vec![equals(Field::OutIndex, &7_u32.to_ne_bytes()), DROP]]));
}

#[test]
fn an_interface_that_a_frame_does_not_have() {
    assert!(!incoming(vec![vec![to("cali0"), DROP]]));
    assert!(!outgoing(vec![vec![from("cali0"), DROP]]));
    assert!(!outgoing(vec![vec![one_of(Field::InName, &[padded(b"cali0")]), DROP]]));
    assert!(!outgoing(vec![vec![equals(Field::InIndex, &7_u32.to_ne_bytes()), DROP]]));
    // Whether this holds depends on the kernel.
    for unclear in [
        not(from("cali0")),
        not(from("eth0")),
        not(one_of(Field::InName, &[padded(b"cali0")])),
        not(equals(Field::InIndex, &7_u32.to_ne_bytes())),
        equals(Field::InName, &[0; 16]),
        equals(Field::InIndex, &[0; 4]),
        one_of(Field::InName, &[padded(b"")]),
    ] {
        assert!(outgoing(vec![vec![unclear.clone(), DROP]]), "{unclear:?}");
        assert!(outgoing(vec![vec![unclear.clone(), ACCEPT], vec![DROP]]), "{unclear:?}");
    }
}

#[test]
fn a_name_that_is_no_text_may_be_any() {
    let rules = dropping_from("cali0");
    let odd = Link { name: "c\u{fffd}".into(), ..cali0() };
    assert!(rules.concern(&odd).is_some());
    assert!(rules.concern(&Link { name: "eth0".into(), ..cali0() }).is_none());
}

#[test]
fn what_each_frame_is() {
    let oper = |oper| equals(Field::Packet { offset: 6, len: 2 }, &[0, oper]);
    assert!(incoming(vec![vec![oper(1), DROP]]) && !incoming(vec![vec![oper(2), DROP]]));
    assert!(outgoing(vec![vec![oper(2), DROP]]) && !outgoing(vec![vec![oper(1), DROP]]));
    let htype = || equals(Field::Packet { offset: 0, len: 2 }, &[0, 1]);
    assert!(incoming(vec![vec![htype(), ACCEPT], vec![DROP]]), "6 is taken as well");
    assert!(!outgoing(vec![vec![htype(), ACCEPT], vec![DROP]]));
    let spa = || equals(Field::Packet { offset: 14, len: 4 }, &[10, 0, 0, 1]);
    assert!(incoming(vec![vec![spa(), DROP]]) && outgoing(vec![vec![spa(), DROP]]));
    assert!(incoming(vec![vec![not(spa()), DROP]]));
}

#[test]
fn the_order_of_rules_and_steps() {
    assert!(!incoming(vec![vec![from("cali0"), ACCEPT], vec![DROP]]));
    assert!(incoming(vec![vec![DROP], vec![from("cali0"), ACCEPT]]));
    assert!(incoming(vec![vec![from("cali1"), ACCEPT], vec![DROP]]));
    assert!(incoming(vec![vec![from("cali0"), Step::Perhaps, ACCEPT], vec![DROP]]), "not for certain");
    assert!(!incoming(vec![vec![Step::Perhaps, ACCEPT]]));
    let unknown = || Step::Unknown("meta".into());
    assert!(incoming(vec![vec![unknown()]]));
    assert!(incoming(vec![vec![unknown(), from("cali1")]]), "it was done before");
    assert!(!incoming(vec![vec![from("cali1"), unknown()]]));
    assert!(incoming(vec![vec![Step::Perhaps, unknown()]]));
    assert!(!incoming(vec![vec![ACCEPT, unknown()]]));
    assert!(incoming(vec![vec![CONTINUE, unknown()]]));
    assert!(!incoming(vec![vec![], vec![CONTINUE]]));
}

#[test]
fn policies() {
    let policy = |chain| concerns(&rules(ChainHook::Input, false, [chain]));
    assert!(policy(vec![]));
    assert!(!policy(vec![vec![from("cali0"), ACCEPT]]));
    assert!(policy(vec![vec![from("cali1"), ACCEPT]]));
    assert!(policy(vec![vec![Step::Perhaps, ACCEPT]]));
    assert!(policy(vec![vec![from("cali0"), RETURN], vec![ACCEPT]]), "back to the policy");
    assert!(policy(vec![vec![Step::Perhaps, RETURN], vec![ACCEPT]]));
    assert!(!incoming(vec![vec![from("cali0"), RETURN], vec![DROP]]));
}

#[test]
fn jumps_and_gotos() {
    let drops = |base: Vec<Vec<Step>>, other: Vec<Vec<Step>>| concerns(&rules(ChainHook::Input, true, [base, other]));
    assert!(!drops(vec![], vec![vec![DROP]]), "nothing leads there");
    for lead in [jump, goto] {
        assert!(drops(vec![vec![lead(1)]], vec![vec![DROP]]));
        assert!(drops(vec![vec![from("cali0"), lead(1)]], vec![vec![DROP]]));
        assert!(!drops(vec![vec![from("cali1"), lead(1)]], vec![vec![DROP]]));
        assert!(!drops(vec![vec![lead(1)]], vec![vec![from("cali1"), DROP]]));
        assert!(!drops(vec![vec![lead(1)], vec![DROP]], vec![vec![ACCEPT]]));
        assert!(drops(vec![vec![Step::Perhaps, lead(1)], vec![DROP]], vec![vec![ACCEPT]]));
    }
    for end in [vec![], vec![vec![RETURN], vec![DROP]], vec![vec![from("cali1"), DROP]]] {
        assert!(drops(vec![vec![jump(1)], vec![DROP]], end.clone()), "it comes back: {end:?}");
        assert!(!drops(vec![vec![goto(1)], vec![DROP]], end.clone()), "it does not: {end:?}");
        assert!(concerns(&rules(ChainHook::Input, false, [vec![vec![goto(1)], vec![ACCEPT]], end])), "to the policy");
    }
    let through = [vec![vec![jump(1)], vec![DROP]], vec![vec![goto(2)], vec![ACCEPT]], vec![]];
    assert!(concerns(&rules(ChainHook::Input, true, through)), "back to who jumped");
    let round = [vec![vec![jump(1)]], vec![vec![jump(0)]]];
    assert!(concerns(&rules(ChainHook::Input, true, round)), "the kernel refuses it");
    assert!(concerns(&rules(ChainHook::Input, true, [vec![vec![jump(9)]]])), "to nowhere");
    assert!(incoming(vec![vec![Step::Verdict(ChainVerdict::Unknown)]]));
}

#[test]
fn chains_are_not_followed_more_often_than_needed() {
    // Each leads to the next twice.
    let chain = |at: usize| vec![vec![jump(at + 1)], vec![jump(at + 1)]];
    let mut chains: [Vec<Vec<Step>>; 15] = std::array::from_fn(chain);
    chains[14] = vec![];
    assert!(!concerns(&rules(ChainHook::Input, true, chains)));
}

#[test]
fn maps() {
    let map = |of, verdicts: &[(&str, ChainVerdict)]| {
        let verdicts = verdicts.iter().map(|(name, verdict)| (padded(name.as_bytes()), verdict.clone()));
        Step::Map { of, verdicts: verdicts.collect() }
    };
    let by_name = |verdicts: &[(&str, ChainVerdict)]| map(Field::InName, verdicts);
    assert!(incoming(vec![vec![by_name(&[("cali0", ChainVerdict::Drop)])]]));
    assert!(!incoming(vec![vec![by_name(&[("cali1", ChainVerdict::Drop)])]]));
    let both = || by_name(&[("cali0", ChainVerdict::Accept), ("cali1", ChainVerdict::Drop)]);
    assert!(!incoming(vec![vec![both()]]) && !incoming(vec![vec![both()], vec![DROP]]));
    assert!(incoming(vec![vec![by_name(&[("cali1", ChainVerdict::Accept)])], vec![DROP]]));
    assert!(incoming(vec![vec![by_name(&[("cali0", ChainVerdict::Continue)]), DROP]]));
    assert!(!outgoing(vec![vec![both(), DROP]]), "nothing that goes out came in by an interface of a name");
    assert!(outgoing(vec![vec![by_name(&[("", ChainVerdict::Drop)])]]));
    assert!(incoming(vec![vec![Step::OneOf(vec![ChainVerdict::Accept, ChainVerdict::Drop])]]));
    assert!(!incoming(vec![vec![Step::OneOf(vec![ChainVerdict::Accept, ChainVerdict::Return])]]));
    assert!(incoming(vec![vec![Step::OneOf(vec![ChainVerdict::Accept])], vec![DROP]]), "or none");
    let dispatch = |verdict| {
        rules(
            ChainHook::Output,
            true,
            [
                vec![vec![jump(1)]],
                vec![vec![map(Field::OutName, &[("cali0", verdict)])]],
                vec![vec![Step::Perhaps, DROP]],
            ],
        )
    };
    assert!(concerns(&dispatch(ChainVerdict::Goto(2))));
    assert!(dispatch(ChainVerdict::Goto(2)).concern(&Link { name: "cali1".into(), ..cali0() }).is_none());
}

#[test]
fn all_chains_that_see_a_frame_count() {
    let mut two = rules(ChainHook::Input, true, [vec![vec![from("cali0"), ACCEPT]], vec![vec![DROP]]]);
    assert!(!concerns(&two));
    two.bases.push(Base { hook: ChainHook::Input, chain: 1, accepts: true });
    assert!(concerns(&two), "accepted by one, dropped by the other");
    let mut appended = rules(ChainHook::Input, true, [vec![vec![jump(1)]], vec![vec![from("cali1"), DROP]]]);
    appended.append(rules(ChainHook::Output, true, [vec![vec![jump(1)]], vec![vec![to("cali1"), DROP]]]));
    assert!(!concerns(&appended));
    appended.append(rules(ChainHook::Output, true, [vec![vec![jump(1)]], vec![vec![to("cali0"), DROP]]]));
    assert!(concerns(&appended));
    let mut unread = ArpRules::default();
    unread.append(ArpRules::unread("test"));
    assert!(concerns(&unread));
}

#[test]
fn a_hook_that_is_not_known_sees_any_interface() {
    let other = |chain| concerns(&rules(ChainHook::Other, true, [chain]));
    assert!(!other(vec![]));
    assert!(other(vec![vec![from("cali1"), DROP]]) && other(vec![vec![to("cali1"), DROP]]));
    assert!(other(vec![vec![equals(Field::Packet { offset: 6, len: 2 }, &[0, 9]), DROP]]));
}

#[test]
fn replies_that_are_held_back() {
    let spa = || equals(Field::Packet { offset: 14, len: 4 }, &[10, 0, 0, 1]);
    let oper = || equals(Field::Packet { offset: 6, len: 2 }, &[0, 2]);
    let held_back = vec![("cali0".to_owned(), Ipv4Addr::new(10, 0, 0, 1))];
    let short = equals(Field::OutName, b"cali0\0");
    for rule in [
        vec![to("cali0"), oper(), spa(), DROP],
        vec![spa(), Step::Perhaps, to("cali0"), DROP],
        vec![short, spa(), DROP],
    ] {
        let rules = rules(ChainHook::Output, true, [vec![rule]]);
        assert_eq!((concerns(&rules), rules.held_back()), (false, held_back.clone()));
    }
    let others = [
        vec![equals(Field::OutName, b"cali"), oper(), spa(), DROP],
        vec![oper(), spa(), DROP],
        vec![to("cali0"), oper(), equals(Field::Packet { offset: 24, len: 4 }, &[10, 0, 0, 1]), DROP],
        vec![to("cali0"), equals(Field::Packet { offset: 14, len: 3 }, &[10, 0, 0]), DROP],
        vec![to("cali0"), equals(Field::Packet { offset: 14, len: 4 }, &[10, 0, 0]), DROP],
        vec![to("cali0"), not(spa()), DROP],
        vec![to("cali0"), spa(), Step::Unknown("meta".into()), DROP],
        vec![to("cali0"), spa(), Step::Verdict(ChainVerdict::Unknown)],
    ];
    for other in others {
        let rules = rules(ChainHook::Output, true, [vec![other.clone()]]);
        assert_eq!((concerns(&rules), rules.held_back()), (true, vec![]), "{other:?}");
    }
    let first = rules(ChainHook::Output, true, [vec![vec![to("cali0"), spa(), DROP], vec![DROP]]]);
    assert!(concerns(&first), "the others go on");
}

#[test]
fn it_says_which_rule() {
    let said = |rules: &ArpRules| rules.concern(&cali0()).unwrap().to_string();
    let rule = rules(ChainHook::Input, true, [vec![vec![jump(1)]], vec![vec![], vec![DROP]]]);
    assert_eq!(said(&rule), "nft rule arp t c1 handle 2: it may drop frames");
    assert_eq!(said(&rules(ChainHook::Input, false, [vec![]])), "nft chain arp t c0: its policy may drop frames");
    let mut legacy = rules(ChainHook::Input, true, [vec![vec![Step::Unknown("-j mangle".into())]]]);
    legacy.chains[0].tool = ChainTool::Arptables;
    legacy.chains[0].name = "INPUT".into();
    assert_eq!(said(&legacy), "arptables chain INPUT, rule 1: `-j mangle` may do anything");
    assert_eq!(said(&ArpRules::unread("not readable")), "not readable");
}
