from tests.bench.results import Run


def page_of(run: Run) -> str:
    return str(run.as_json())
