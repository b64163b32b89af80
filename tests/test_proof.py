"""docs/asvs.md is true: every claim has a test, every test's claim is in it, nothing got lost."""

import re

import pytest

from tests.proof import ROOT, Status, read_markers, read_table, summary, without_test

# What applies to this service. A row that is deleted from the table is noticed here.
APPLICABLE = """
1.1.1 1.2.1 1.2.2 1.2.4 1.3.6 1.3.7 1.3.11 1.3.12 1.5.2 1.5.3
2.1.1 2.1.3 2.2.1 2.2.2 2.3.1 2.3.2 2.3.3 2.3.4 2.4.1
3.1.1 3.2.1 3.2.2 3.2.3 3.3.1 3.3.2 3.3.3 3.3.4 3.3.5 3.4.1 3.4.2 3.4.3 3.4.4 3.4.5 3.4.6 3.4.7
3.4.8 3.5.1 3.5.2 3.5.3 3.5.4 3.5.6 3.5.7 3.5.8 3.6.1 3.7.2
4.1.1 4.1.2 4.1.3 4.1.4 4.2.1 4.2.2 4.2.5
6.1.1 6.1.2 6.1.3 6.2.1 6.2.2 6.2.3 6.2.4 6.2.5 6.2.6 6.2.7 6.2.8 6.2.9 6.2.10 6.2.11 6.2.12
6.3.1 6.3.2 6.3.3 6.3.4 6.3.5 6.3.6 6.3.7 6.3.8 6.4.1 6.4.2 6.4.3 6.4.4 6.4.6
6.5.1 6.5.2 6.5.3 6.5.4 6.5.5 6.5.6 6.5.8 6.6.2 6.6.3 6.7.1 6.7.2
7.1.1 7.1.2 7.2.1 7.2.2 7.2.3 7.2.4 7.3.1 7.3.2 7.4.1 7.4.2 7.4.3 7.4.4 7.4.5 7.5.1 7.5.2 7.5.3
8.1.1 8.1.2 8.1.3 8.1.4 8.2.1 8.2.2 8.2.3 8.2.4 8.3.1 8.3.2 8.4.2
9.1.1 9.1.2 9.1.3 9.2.1 9.2.2 9.2.3 9.2.4
10.1.1 10.3.1 10.3.2 10.3.3 10.3.4 10.3.5 10.4.4 10.4.5 10.4.8 10.4.9 10.4.14
11.1.1 11.1.2 11.1.3 11.1.4 11.2.1 11.2.2 11.2.3 11.2.4 11.2.5 11.3.1 11.3.2 11.3.3 11.3.4
11.4.1 11.4.2 11.4.3 11.5.1 11.5.2 11.6.1
12.2.1 12.3.1 12.3.2
13.1.1 13.1.2 13.1.3 13.1.4 13.2.1 13.2.2 13.2.3 13.2.4 13.2.6 13.3.1 13.3.2 13.3.4
13.4.1 13.4.2 13.4.3 13.4.4 13.4.5 13.4.6
14.1.1 14.1.2 14.2.1 14.2.2 14.2.3 14.2.4 14.2.5 14.2.6 14.2.7 14.3.1 14.3.2 14.3.3
15.1.1 15.1.2 15.1.3 15.2.1 15.2.2 15.2.3 15.3.1 15.3.3 15.3.4 15.3.5 15.3.7 15.4.1 15.4.2
16.1.1 16.2.1 16.2.2 16.2.3 16.2.4 16.2.5 16.3.1 16.3.2 16.3.3 16.3.4 16.4.1 16.4.2
16.5.1 16.5.2 16.5.3 16.5.4

JWT-01 JWT-02 JWT-03 JWT-04 JWT-06 JWT-07 JWT-08 JWT-12 JWT-13 JWT-17 JWT-19 JWT-20 JWT-21
JWT-22 JWT-23 JWT-24
RT-04 RT-05 RT-06 RT-07 RT-09 RT-10 RT-12 RT-13 RT-14 RT-15
LO-01 LO-02 LO-03 LO-04 LO-05 LO-07 LO-08 LO-10 SF-02
AC-02 AC-03 AC-05 PW-02 PW-04 PW-05 PW-06
CS-02 CS-03 CS-06 CS-07 CS-08 CS-09 CS-10 CS-12 CS-13 CS-15
CK-01 CK-02 CK-03 CK-04 CK-07 CK-08
PWD-02 PWD-03 PWD-04 PWD-05 PWD-07 PWD-08 PWD-11
EM-01 EM-03 EM-06 EM-07 EM-08 EV-01 EV-03 EV-04
RS-02 RS-04 RS-06 RS-07 RS-08 RS-10 UL-01 UL-02 HH-01 HH-02 HH-03 HH-04
EN-01 EN-02 EN-03 EN-04 EN-08
RL-01 RL-02 RL-03 RL-04 RL-05 RL-07 RL-11
IN-01 IN-04 IN-05 IN-07 IN-09 IN-10 IN-11 SQ-02 SQ-03
MA-01 MA-03 AZ-01 AZ-03 AZ-04
HD-01 HD-02 HD-04 HD-05 ER-01 ER-02 ER-03 ER-05 CFG-02 CFG-05 CFG-06 TM-02
MF-01 MF-04 MF-06 MF-07 MF-08 MF-09 PK-02 PK-03 PK-04

NIST63B4-3.1.1.2-6 NIST63B4-4.2.1 RFC9700-4.14.2-d
CS-AUTH-ERR CS-AUTH-CHANGE CS-AUTH-REAUTH CS-AUTH-EMAIL CS-SESS-RENEW
CS-FP-UNIFORM CS-FP-RATE CS-FP-HOST CS-FP-NOLOGIN CS-FP-NOCHANGE CS-EMAIL-VERIFY CS-EMAIL-LOG
"""
A_REASON = re.compile(r"\*\*(Deviation|Later)\.\*\*( \S+){4,}")


def test_the_table_holds_what_applies_and_each_once() -> None:
    assert sorted(row.id for row in read_table()) == sorted(APPLICABLE.split())


def test_every_claim_has_a_test(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{summary()}")
    assert without_test(read_table(), read_markers()) == []


def test_every_test_names_what_the_table_has() -> None:
    unknown = {id_: tests for id_, tests in read_markers().items() if id_ not in APPLICABLE.split()}
    assert unknown == {}


def test_nothing_for_later_is_claimed_by_a_test() -> None:
    later = {row.id for row in read_table() if row.status is Status.LATER}
    assert later & {*read_markers()} == set()


def test_every_deviation_has_a_reason() -> None:
    deviations = [row for row in read_table() if row.status is not Status.MET]
    assert deviations
    assert [row.id for row in deviations if not A_REASON.search(row.answer)] == []


def test_every_link_of_the_documents_leads_somewhere() -> None:
    for path in (ROOT / "docs").glob("*.md"):
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", path.read_text(encoding="utf-8")):
            name, _, heading = target.partition("#")
            file = path.parent / name if name else path
            assert file.exists(), f"{path.name}: {target}"
            if heading:
                titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
                anchors = {
                    re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles
                }
                assert heading in anchors, f"{path.name}: {target}"
